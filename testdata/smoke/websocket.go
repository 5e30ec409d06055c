package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

const maxFrame = 1 << 20 // a server frame beyond this is refused

// webSocket is a client connection as RFC 6455 has it, without fragments and without extensions.
type webSocket struct {
	net.Conn
	r *bufio.Reader
}

// dial makes the opening handshake (RFC 6455, section 4.1).
func dial(addr, target string) (*webSocket, error) {
	conn, err := net.DialTimeout("tcp", addr, waitTimeout)
	if err != nil {
		return nil, err
	}
	ws := &webSocket{Conn: conn, r: bufio.NewReader(conn)}
	if err := ws.handshake(addr, target); err != nil {
		conn.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return ws, nil
}

func (ws *webSocket) handshake(addr, target string) error {
	if err := ws.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	fmt.Fprintf(ws, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", target, addr, key)
	res, err := http.ReadResponse(ws.r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s, want 101", res.Status)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	want := base64.StdEncoding.EncodeToString(sum[:])
	if got := res.Header.Get("Sec-WebSocket-Accept"); got != want {
		return fmt.Errorf("Sec-WebSocket-Accept is %q, want %q", got, want)
	}
	return nil
}

// WriteText sends one masked text frame.
func (ws *webSocket) WriteText(payload []byte) error { return ws.writeFrame(opText, payload) }

func (ws *webSocket) writeFrame(opcode byte, payload []byte) error {
	frame := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	mask := make([]byte, 4)
	rand.Read(mask)
	frame = append(frame, mask...)
	for i, b := range payload {
		frame = append(frame, b^mask[i%4])
	}
	_, err := ws.Write(frame)
	return err
}

// ReadText returns the payload of the next text frame and answers the pings before it.
func (ws *webSocket) ReadText() ([]byte, error) {
	if err := ws.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return nil, err
	}
	for {
		opcode, payload, err := ws.readFrame()
		if err != nil {
			return nil, err
		}
		switch opcode {
		case opText:
			return payload, nil
		case opPing:
			if err := ws.writeFrame(opPong, payload); err != nil {
				return nil, err
			}
		case opPong:
		case opClose:
			code := 1005 // no code in the frame
			if len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
				payload = payload[2:]
			}
			return nil, fmt.Errorf("closed by the server: %d %q", code, payload)
		default:
			return nil, fmt.Errorf("unexpected opcode %d", opcode)
		}
	}
}

func (ws *webSocket) readFrame() (opcode byte, payload []byte, err error) {
	var header [2]byte
	if _, err := io.ReadFull(ws.r, header[:]); err != nil {
		return 0, nil, err
	}
	if header[0]&0xf0 != 0x80 || header[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("frame header %x is fragmented, compressed or masked", header)
	}
	n := uint64(header[1])
	if extra := map[uint64]int{126: 2, 127: 8}[n]; extra > 0 {
		var length [8]byte
		if _, err := io.ReadFull(ws.r, length[8-extra:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(length[:])
	}
	if n > maxFrame {
		return 0, nil, errors.New("frame too large")
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(ws.r, payload)
	return header[0] & 0x0f, payload, err
}
