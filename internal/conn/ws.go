package conn

// WebSocket frames (RFC 6455 section 5): their words and limits, and those that are not messages.

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Opcodes, RFC 6455 section 5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA

	Rsv1 = 0x40 // of a compressed message, RFC 7692 section 6
)

// Close codes of RFC 6455 section 7.4.1 that edge sends.
const (
	CloseProtocolError = 1002
	closeUnsupported   = 1003
	CloseNotUTF8       = 1007
	ClosePolicy        = 1008
	CloseTooBig        = 1009
	CloseInternal      = 1011
)

const (
	MaxPayload      = 32_759 // bytes of one client message; with the 9 that gws adds they fit into 32 KiB
	MaxFragments    = 64     // frames of one client message
	ControlRate     = 20     // control frames a second that a client may send,
	ControlBurst    = 40     // and how many at once
	MaxControlFrame = 125    // bytes of payload, RFC 6455 section 5.5
)

// FrameProblem is the reason given with a close code of guard.next.
func FrameProblem(code int) string {
	switch code {
	case CloseTooBig:
		return fmt.Sprintf("messages may have at most %d bytes", MaxPayload)
	case ClosePolicy:
		return "too many control frames or fragments"
	}
	return "illegal frame"
}

// Rate limits how often something happens (the generic cell rate algorithm): the value is the moment, in nanoseconds of
// a monotonic clock, up to which the allowance is used up. The zero value has used nothing.
type Rate int64

// Allow reports whether one more may happen now, at perSecond on average and burst at once, and counts it if so.
func (r *Rate) Allow(now int64, perSecond, burst int) bool { return r.Take(now, perSecond, burst) == 0 }

// Take is allow, but tells how long to wait: 0 if one more may happen now, which is then counted.
func (r *Rate) Take(now int64, perSecond, burst int) (wait time.Duration) {
	each := int64(time.Second) / int64(perSecond)
	used := max(int64(*r), now)
	if wait := used - now - each*int64(burst-1); wait > 0 {
		return time.Duration(wait)
	}
	*r = Rate(used + each)
	return 0
}

// NextServerFrame takes the first frame off b, which has whole frames of ours.
func NextServerFrame(b []byte) (opcode byte, payload, rest []byte) {
	n, head := int(b[1]), 2
	switch n {
	case 126:
		n, head = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		n, head = int(binary.BigEndian.Uint64(b[2:])), 10
	}
	return b[0] & 0xf, b[head : head+n], b[head+n:]
}

// appendControl appends a control frame; payload must not be longer than 125 bytes.
func appendControl(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode, byte(len(payload)))
	return append(dst, payload...)
}

// appendClose appends a close frame; code 0 is one without a code. The reason is cut to what a control frame holds, and
// is UTF-8 whatever comes in: a client must fail the connection over one that is not, and would never see the code.
func appendClose(dst []byte, code int, reason string) []byte {
	if code == 0 {
		return appendControl(dst, OpClose, nil)
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), MaxControlFrame-2)], "")
	dst = append(dst, 0x80|OpClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(dst, reason...)
}

// PingFrame asks a client whether it is there.
var PingFrame = appendControl(nil, OpPing, nil)
