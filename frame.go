package main

// WebSocket frames (RFC 6455 section 5): the guard that stands under gws's reader, and the frames the server sends.
//
// gws v1.9.1 turns a 64-bit length with the top bit set into a negative number and panics outside every recovery, and
// wraps lengths on 32-bit machines. So every header is checked here first, as the bytes stream by, and gws only ever
// sees frames that are legal and short.

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Close codes of RFC 6455 section 7.4.1 that edge sends.
const (
	closeProtocolError = 1002
	closeUnsupported   = 1003
	closePolicy        = 1008
	closeTooBig        = 1009
	closeInternal      = 1011
)

const (
	maxPayload      = 32_759 // bytes of one client message; gws asks its pool for 9 more, which makes 32 KiB
	maxFragments    = 64     // frames of one client message
	controlRate     = 20     // control frames a second that a client may send,
	controlBurst    = 40     // and how many at once
	maxControlFrame = 125    // bytes of payload, RFC 6455 section 5.5
)

// frameGuard checks the headers of client frames as they stream by. One goroutine at a time may use it.
type frameGuard struct {
	header    [10]byte // of the frame being read: two bytes and the extended length
	have      uint8    // bytes of it read so far
	maskLeft  uint8    // bytes of the masking key still to come
	inPayload bool
	inMessage bool   // a fragmented message has begun
	fragments uint8  // frames of it so far
	left      uint64 // payload bytes of the current frame still to come
	message   uint64 // payload bytes of the current message so far
	frames    uint64 // begun so far
	controls  rate
}

// idle reports whether the last byte seen was the last of a frame.
func (g *frameGuard) idle() bool { return g.have == 0 && !g.inPayload }

// check follows p and returns how many of its bytes may be passed on, and the close code if the byte after them breaks a
// rule. After a code other than 0 the guard must not be used any more. now is in nanoseconds of a monotonic clock.
func (g *frameGuard) check(p []byte, now int64) (good int, code int) {
	for i := 0; i < len(p); {
		if g.inPayload {
			n := min(uint64(len(p)-i), g.left)
			g.left -= n
			i += int(n)
			g.inPayload = g.left > 0
			continue
		}
		if g.maskLeft > 0 {
			g.maskLeft--
			i++
			if g.maskLeft == 0 {
				g.have = 0
				g.inPayload = g.left > 0
			}
			continue
		}
		g.header[g.have] = p[i]
		g.have++
		if code := g.checkHeader(now); code != 0 {
			return i, code
		}
		i++
	}
	return len(p), 0
}

// checkHeader is called with every byte of a header but those of the masking key.
func (g *frameGuard) checkHeader(now int64) (code int) {
	switch short := g.header[1] & 0x7f; {
	case g.have < 2:
		return g.checkFirst(now)
	case g.have == 2 && g.header[1]&0x80 == 0:
		return closeProtocolError // not masked, RFC 6455 section 5.1
	case g.have == 2 && g.isControl() && short > maxControlFrame:
		return closeProtocolError
	case short < 126:
		g.left = uint64(short)
	case short == 126 && g.have == 4:
		g.left = uint64(binary.BigEndian.Uint16(g.header[2:]))
	case short == 127 && g.have == 10:
		g.left = binary.BigEndian.Uint64(g.header[2:])
		if g.left>>63 != 0 {
			return closeProtocolError // RFC 6455 section 5.2
		}
	default:
		return 0 // the length is not complete
	}
	g.maskLeft = 4
	if g.isControl() {
		return 0
	}
	if g.left > maxPayload || g.message+g.left > maxPayload {
		return closeTooBig
	}
	if g.message += g.left; g.header[0]&0x80 != 0 {
		g.inMessage, g.fragments, g.message = false, 0, 0
	}
	return 0
}

func (g *frameGuard) isControl() bool { return g.header[0]&0x8 != 0 }

// checkFirst judges the first byte of a header: FIN, RSV and opcode.
func (g *frameGuard) checkFirst(now int64) (code int) {
	g.frames++
	fin, opcode := g.header[0]&0x80 != 0, g.header[0]&0xf
	if g.header[0]&0x70 != 0 {
		return closeProtocolError // a reserved bit, and no extension is ever negotiated
	}
	switch opcode {
	case opContinuation:
		if !g.inMessage {
			return closeProtocolError
		}
	case opText, opBinary:
		if g.inMessage {
			return closeProtocolError
		}
		g.inMessage = true
	case opClose, opPing, opPong:
		if !fin {
			return closeProtocolError
		}
		if !g.controls.allow(now, controlRate, controlBurst) {
			return closePolicy
		}
		return 0
	default:
		return closeProtocolError
	}
	if g.fragments++; g.fragments > maxFragments {
		return closePolicy
	}
	return 0
}

// frameProblem is the reason given with a close code of the frame guard.
func frameProblem(code int) string {
	switch code {
	case closeTooBig:
		return fmt.Sprintf("messages may have at most %d bytes", maxPayload)
	case closePolicy:
		return "too many control frames or fragments"
	}
	return "illegal frame"
}

// rate limits how often something happens (the generic cell rate algorithm): the value is the moment, in nanoseconds of a
// monotonic clock, up to which the allowance is used up. The zero value has used nothing.
type rate int64

// allow reports whether one more may happen now, at perSecond on average and burst at once, and counts it if so.
func (r *rate) allow(now int64, perSecond, burst int) bool { return r.take(now, perSecond, burst) == 0 }

// take is allow, but tells how long to wait: 0 if one more may happen now, which is then counted.
func (r *rate) take(now int64, perSecond, burst int) (wait time.Duration) {
	each := int64(time.Second) / int64(perSecond)
	used := max(int64(*r), now)
	if wait := used - now - each*int64(burst-1); wait > 0 {
		return time.Duration(wait)
	}
	*r = rate(used + each)
	return 0
}

// Server frames are not masked and never fragmented.

const frameRoom = 4 // header of a frame of 126 to 65,535 bytes, by far the most common here

// openFrame begins a text frame: append the payload to what it returns, then call sealFrame with the length dst had.
func openFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// sealFrame writes the header of the frame that openFrame began at start.
func sealFrame(dst []byte, start int) []byte {
	n := len(dst) - start - frameRoom
	switch {
	case n < 126:
		copy(dst[start+2:], dst[start+frameRoom:])
		dst = dst[:len(dst)-2]
		dst[start+1] = byte(n)
	case n <= 0xffff:
		dst[start+1] = 126
		binary.BigEndian.PutUint16(dst[start+2:], uint16(n))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[start+10:], dst[start+frameRoom:])
		dst[start+1] = 127
		binary.BigEndian.PutUint64(dst[start+2:], uint64(n))
	}
	dst[start] = 0x80 | opText
	return dst
}

// appendControl appends a control frame; payload must not be longer than 125 bytes.
func appendControl(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode, byte(len(payload)))
	return append(dst, payload...)
}

// appendClose appends a close frame. The reason is cut to what a control frame holds, and is UTF-8 whatever comes in: a
// client must fail the connection over one that is not, and would never see the code.
func appendClose(dst []byte, code int, reason string) []byte {
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxControlFrame-2)], "")
	dst = append(dst, 0x80|opClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(dst, reason...)
}
