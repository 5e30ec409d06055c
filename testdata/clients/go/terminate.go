package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/pusher/pusher-http-go/v5"
)

// terminate ends the connections of a user, for which the library has no call. It signs and fails as the library does, and
// posts without a body, which is the other legal form beside "{}".
func terminate(app *pusher.Client, userID string) error {
	path := "/apps/" + app.AppID + "/users/" + userID + "/terminate_connections"
	query := fmt.Sprintf("auth_key=%s&auth_timestamp=%d&auth_version=1.0", app.Key, time.Now().Unix())
	mac := hmac.New(sha256.New, []byte(app.Secret))
	fmt.Fprintf(mac, "POST\n%s\n%s", path, query)
	query += "&auth_signature=" + hex.EncodeToString(mac.Sum(nil))
	res, err := app.HTTPClient.Post("http://"+app.Host+path+"?"+query, "application/json", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("Status Code: %d - %s", res.StatusCode, reply)
	}
	return json.Unmarshal(reply, &map[string]any{})
}
