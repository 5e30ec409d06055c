// Smoke proves that a running edge delivers one event from end to end, with nothing but the standard library.
//
//	go run . ADDR APPID KEY SECRET
//
// It waits for GET /health, opens a WebSocket, subscribes to a private channel with a signature of its own, triggers an
// event through the signed HTTP API, and expects exactly that event back, byte for byte. It prints "smoke: ok (N ms)", the time
// from trigger to delivery, and exits 0; otherwise it prints what went wrong and exits 1.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	startTimeout = 30 * time.Second // for the server to come up; emulators are slow
	waitTimeout  = 20 * time.Second // for any one answer
	channel      = "private-smoke"
	event        = "smoke-event"
	data         = `{"text":"\"quoted\" \\ / grüße 🚀 \u2028","n":1.50}`
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: smoke ADDR APPID KEY SECRET")
		os.Exit(2)
	}
	elapsed, err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
	fmt.Printf("smoke: ok (%d ms)\n", elapsed.Milliseconds())
}

func run(addr, appID, key, secret string) (time.Duration, error) {
	if err := waitHealthy(addr); err != nil {
		return 0, err
	}
	ws, err := dial(addr, "/app/"+key+"?protocol=7&client=smoke&version=1.0.0")
	if err != nil {
		return 0, err
	}
	defer ws.Close()
	if err := subscribe(ws, key, secret); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := trigger(addr, appID, key, secret); err != nil {
		return 0, err
	}
	got, err := expect(ws, event)
	if err != nil {
		return 0, err
	}
	if got.Channel != channel || got.Data != data {
		return 0, fmt.Errorf("received channel %q, data %q; want %q, %q", got.Channel, got.Data, channel, data)
	}
	return time.Since(start), nil
}

// waitHealthy returns once GET /health answers 200.
func waitHealthy(addr string) error {
	client := http.Client{Timeout: 5 * time.Second}
	deadline := time.Now().Add(startTimeout)
	for {
		res, err := client.Get("http://" + addr + "/health")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("status %s", res.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("GET /health is not 200 after %s: %w", startTimeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// message is one Pusher frame; every frame this program waits for has its data as a JSON string.
type message struct {
	Event   string `json:"event"`
	Channel string `json:"channel"`
	Data    string `json:"data"`
}

// expect reads the next frame, which must be the named event.
func expect(ws *webSocket, event string) (message, error) {
	var m message
	frame, err := ws.ReadText()
	if err != nil {
		return m, fmt.Errorf("waiting for %s: %w", event, err)
	}
	if err := json.Unmarshal(frame, &m); err != nil || m.Event != event {
		return m, fmt.Errorf("received %s, want %s", frame, event)
	}
	return m, nil
}

func subscribe(ws *webSocket, key, secret string) error {
	established, err := expect(ws, "pusher:connection_established")
	if err != nil {
		return err
	}
	var hello struct {
		SocketID string `json:"socket_id"`
	}
	if err := json.Unmarshal([]byte(established.Data), &hello); err != nil {
		return fmt.Errorf("connection_established holds %q: %w", established.Data, err)
	}
	auth := key + ":" + sign(secret, hello.SocketID+":"+channel)
	frame := fmt.Sprintf(`{"event":"pusher:subscribe","data":{"auth":%q,"channel":%q}}`, auth, channel)
	if err := ws.WriteText([]byte(frame)); err != nil {
		return err
	}
	_, err = expect(ws, "pusher_internal:subscription_succeeded")
	return err
}

func trigger(addr, appID, key, secret string) error {
	body, err := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": data})
	if err != nil {
		return err
	}
	path := "/apps/" + appID + "/events"
	query := fmt.Sprintf("auth_key=%s&auth_timestamp=%s&auth_version=1.0&body_md5=%x",
		key, strconv.FormatInt(time.Now().Unix(), 10), md5.Sum(body))
	signature := sign(secret, "POST\n"+path+"\n"+query)
	client := http.Client{Timeout: waitTimeout}
	res, err := client.Post("http://"+addr+path+"?"+query+"&auth_signature="+signature, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s %q", path, res.Status, reply)
	}
	return nil
}

func sign(secret, s string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(s))
	return hex.EncodeToString(mac.Sum(nil))
}
