package edgetest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Opcodes of frames (RFC 6455 section 5.2).
const (
	OpContinuation byte = 0
	OpText         byte = 1
	OpBinary       byte = 2
	OpClose        byte = 8
	OpPing         byte = 9
	OpPong         byte = 10
)

// Codes of close frames: those of RFC 6455 section 7.4.1, and Pusher's.
const (
	CloseProtocol     = 1002
	ClosePolicy       = 1008
	CloseTooBig       = 1009
	CloseOverCapacity = 4100
	CloseReconnect    = 4200
	ClosePongMissing  = 4201
)

// Masked is a frame of a client. FIN is 0x80 of its first byte.
func Masked(first byte, payload []byte) []byte {
	form := 64
	switch n := len(payload); {
	case n < 126:
		form = 7
	case n <= 0xffff:
		form = 16
	}
	b := Header(first, true, form, uint64(len(payload)))
	mask := b[len(b)-4:]
	for i, c := range payload {
		b = append(b, c^mask[i&3])
	}
	return b
}

// Text is a message of a client in one frame.
func Text(format string, args ...any) []byte {
	return Masked(0x80|OpText, fmt.Appendf(nil, format, args...))
}

// Header is the header of a frame whose length is written in so many bits. The mask is all ones.
func Header(first byte, masked bool, form int, length uint64) []byte {
	b := []byte{first, 0}
	switch form {
	case 7:
		b[1] = byte(length)
	case 16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, length)
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 0xff, 0xff, 0xff, 0xff)
	}
	return b
}

// ReadFrame reads a frame of a server, which has FIN, no mask and no reserved bit.
func ReadFrame(in *bufio.Reader) (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	if extended := map[byte]int{126: 2, 127: 8}[head[1]]; extended > 0 {
		var b [8]byte
		if _, err := io.ReadFull(in, b[8-extended:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("illegal server frame %x", head)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(in, payload)
	LookForSecret("a frame", payload)
	return head[0] & 0xf, payload, err
}
