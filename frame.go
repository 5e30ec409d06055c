package main

// WebSocket frames (RFC 6455 section 5): the reader of client frames, and the frames the server sends.

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"time"
	"unicode/utf8"
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
	closeNotUTF8       = 1007
	closePolicy        = 1008
	closeTooBig        = 1009
	closeInternal      = 1011
)

const (
	maxPayload      = 32_759 // bytes of one client message
	maxFragments    = 64     // frames of one client message
	controlRate     = 20     // control frames a second that a client may send,
	controlBurst    = 40     // and how many at once
	maxControlFrame = 125    // bytes of payload, RFC 6455 section 5.5
)

// frame is what frameReader hands on: a message, put together from its fragments, or a control frame.
type frame struct {
	opcode  byte // opContinuation stands for none
	payload []byte
}

// frameReader takes apart what a client sends, as the bytes stream by: it may be given any piece of the stream, and between
// messages it holds no memory but its own. Every header is judged before anything is kept for it, lengths as the unsigned
// 64 bits they are, so that what a header announces costs nothing. One goroutine at a time may use it.
type frameReader struct {
	header    [10]byte // of the frame being read: two bytes and the extended length
	have      uint8    // bytes of it read so far
	maskLeft  uint8    // bytes of the masking key still to come
	inPayload bool
	opcode    uint8   // of the message that has begun
	fragments uint8   // frames of it so far; 0 between messages
	mask      uint32  // the masking key, its first byte for the next byte of the payload
	left      uint32  // payload bytes of the current frame still to come
	announced uint32  // payload bytes of the message, those still to come of this frame included
	frames    uint32  // begun so far
	message   *[]byte // what has come of a message that is not whole, from frameBuffers; nil for nothing
	control   []byte  // what has come of a control frame that is not whole
	controls  rate
}

// idle reports whether nothing has begun that is not whole.
func (r *frameReader) idle() bool { return r.have == 0 && !r.inPayload && r.fragments == 0 }

// next reads on in p, which it changes, until a message or control frame is whole, p ends or a rule is broken. rest is what
// it has not read. code is 0 or the close code for the byte at which rest begins; after that the reader must not be used any
// more. The payload of f is valid until release, which is to be called before next is called again. now is in nanoseconds of
// a monotonic clock.
func (r *frameReader) next(p []byte, now int64) (f frame, rest []byte, code int) {
	for len(p) > 0 {
		if !r.inPayload {
			if code := r.readHeader(p[0], now); code != 0 {
				return f, p, code
			}
			if p = p[1:]; !r.inPayload {
				continue
			}
		}
		piece := p[:min(len(p), int(r.left))]
		p = p[len(piece):]
		r.unmask(piece)
		if r.left -= uint32(len(piece)); r.left > 0 {
			r.keep(piece)
			break
		}
		r.inPayload = false
		if f = r.whole(piece); f.opcode != opContinuation {
			return f, p, 0
		}
	}
	return frame{}, nil, 0
}

// unmask undoes the masking of the next bytes of the payload, RFC 6455 section 5.3.
func (r *frameReader) unmask(p []byte) {
	key := uint64(r.mask)<<32 | uint64(r.mask)
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key)
	}
	for i := range p {
		p[i] ^= byte(r.mask >> (8 * (i & 3)))
	}
	r.mask = bits.RotateLeft32(r.mask, -8*len(p))
}

// keep keeps a copy of a piece of a frame or message that is not whole yet. What is kept is never more than has come.
func (r *frameReader) keep(piece []byte) {
	if r.isControl() {
		r.control = append(r.control, piece...)
		return
	}
	if r.message == nil {
		r.message = frameBuffers.Get().(*[]byte)
		*r.message = (*r.message)[:0]
	}
	*r.message = append(*r.message, piece...)
}

// whole is called when a frame has ended, with its last piece, and returns what is to be handed on.
func (r *frameReader) whole(piece []byte) frame {
	if r.isControl() {
		f := frame{r.header[0] & 0xf, piece}
		if r.control != nil {
			f.payload, r.control = append(r.control, piece...), nil
		}
		return f
	}
	if fin := r.header[0]&0x80 != 0; !fin {
		r.keep(piece)
		return frame{}
	}
	r.fragments, r.announced = 0, 0
	if r.message == nil {
		return frame{r.opcode, piece} // by far the most common: no copy
	}
	r.keep(piece)
	return frame{r.opcode, *r.message}
}

// release gives back the memory of a message that was handed on.
func (r *frameReader) release() {
	if r.message != nil && r.fragments == 0 {
		freeFrameBuffer(r.message)
		r.message = nil
	}
}

// held is how many bytes of memory a message takes that is not whole.
func (r *frameReader) held() int {
	if r.message == nil {
		return 0
	}
	return cap(*r.message)
}

// drop gives up what has come of a message that is not whole. The reader must not be used any more.
func (r *frameReader) drop() {
	r.fragments = 0
	r.release()
}

// readHeader is called with every byte of a header and returns a close code, or 0.
func (r *frameReader) readHeader(b byte, now int64) (code int) {
	if r.maskLeft > 0 {
		r.mask = r.mask>>8 | uint32(b)<<24
		if r.maskLeft--; r.maskLeft == 0 {
			r.have, r.inPayload = 0, true
		}
		return 0
	}
	r.header[r.have] = b
	r.have++
	var length uint64
	switch short := r.header[1] & 0x7f; {
	case r.have < 2:
		return r.checkFirst(now)
	case r.have == 2 && r.header[1]&0x80 == 0:
		return closeProtocolError // not masked, RFC 6455 section 5.1
	case r.have == 2 && r.isControl() && short > maxControlFrame:
		return closeProtocolError
	case short < 126:
		length = uint64(short)
	case short == 126 && r.have == 4:
		length = uint64(binary.BigEndian.Uint16(r.header[2:]))
	case short == 127 && r.have == 10:
		length = binary.BigEndian.Uint64(r.header[2:])
		if length>>63 != 0 {
			return closeProtocolError // RFC 6455 section 5.2
		}
	default:
		return 0 // the length is not complete
	}
	if !r.isControl() {
		if length > maxPayload || r.announced+uint32(length) > maxPayload {
			return closeTooBig
		}
		r.announced += uint32(length)
	}
	r.left, r.maskLeft = uint32(length), 4
	return 0
}

func (r *frameReader) isControl() bool { return r.header[0]&0x8 != 0 }

// checkFirst judges the first byte of a header: FIN, RSV and opcode.
func (r *frameReader) checkFirst(now int64) (code int) {
	r.frames++
	fin, opcode := r.header[0]&0x80 != 0, r.header[0]&0xf
	if r.header[0]&0x70 != 0 {
		return closeProtocolError // a reserved bit, and no extension is ever negotiated
	}
	switch opcode {
	case opContinuation:
		if r.fragments == 0 {
			return closeProtocolError
		}
	case opText, opBinary:
		if r.fragments > 0 {
			return closeProtocolError
		}
		r.opcode = opcode
	case opClose, opPing, opPong:
		if !fin {
			return closeProtocolError
		}
		if !r.controls.allow(now, controlRate, controlBurst) {
			return closePolicy
		}
		return 0
	default:
		return closeProtocolError
	}
	if r.fragments++; r.fragments > maxFragments {
		return closePolicy
	}
	return 0
}

// closeAnswer is the code to answer a client's close frame with: its own, 0 if it has none, or what is wrong with it (RFC 6455
// sections 5.5.1 and 7.4).
func closeAnswer(payload []byte) int {
	if len(payload) == 0 {
		return 0
	}
	if len(payload) == 1 {
		return closeProtocolError
	}
	code := int(binary.BigEndian.Uint16(payload))
	switch {
	case code < 1000 || code >= 5000 || code >= 1004 && code <= 1006 || code >= 1015 && code < 3000:
		return closeProtocolError
	case !utf8.Valid(payload[2:]):
		return closeNotUTF8
	}
	return code
}

// frameProblem is the reason given with a close code of frameReader.next.
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

// nextServerFrame takes the first frame off b, which has whole frames of ours.
func nextServerFrame(b []byte) (opcode byte, payload, rest []byte) {
	n, head := int(b[1]), 2
	switch n {
	case 126:
		n, head = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		n, head = int(binary.BigEndian.Uint64(b[2:])), 10
	}
	return b[0] & 0xf, b[head : head+n], b[head+n:]
}

// appendMasked appends a frame as clients send it, with this masking key (RFC 6455 section 5.3): 0 leaves the payload as it is.
func appendMasked(dst []byte, opcode byte, key [4]byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, key[:]...)
	for i, b := range payload {
		dst = append(dst, b^key[i&3])
	}
	return dst
}

// appendControl appends a control frame; payload must not be longer than 125 bytes.
func appendControl(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode, byte(len(payload)))
	return append(dst, payload...)
}

// appendClose appends a close frame; code 0 is one without a code. The reason is cut to what a control frame holds, and is UTF-8 whatever comes in: a
// client must fail the connection over one that is not, and would never see the code.
func appendClose(dst []byte, code int, reason string) []byte {
	if code == 0 {
		return appendControl(dst, opClose, nil)
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxControlFrame-2)], "")
	dst = append(dst, 0x80|opClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(dst, reason...)
}
