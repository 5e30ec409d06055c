package conn

// frameReader reads client frames without gws. It served every connection before gws did; here it is what guard and gws
// are compared with, and the server's side of tests.

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"edge/internal/wire"
)

// frame is what frameReader hands on: a message, put together from its fragments, or a control frame.
type frame struct {
	opcode  byte // OpContinuation stands for none
	payload []byte
}

// frameReader takes apart what a client sends, as the bytes stream by: it may be given any piece of the stream, and
// between messages it holds no memory but its own. Every header is judged before anything is kept for it, lengths as
// the unsigned 64 bits they are, so that what a header announces costs nothing. One goroutine at a time may use it.
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
	message   *[]byte // what has come of a message that is not whole, from wire.Buffers; nil for nothing
	control   []byte  // what has come of a control frame that is not whole
	controls  Rate
}

// next reads on in p, which it changes, until a message or control frame is whole, p ends or a rule is broken. rest is
// what it has not read. code is 0 or the close code for the byte at which rest begins; after that the reader must not
// be used any more. The payload of f is valid until release, which is to be called before next is called again. now is
// in nanoseconds of a monotonic clock.
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
		if f = r.whole(piece); f.opcode != OpContinuation {
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
		r.message = wire.Buffers.Get().(*[]byte)
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
		wire.FreeBuffer(&r.message)
	}
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
		return CloseProtocolError // not masked, RFC 6455 section 5.1
	case r.have == 2 && r.isControl() && short > MaxControlFrame:
		return CloseProtocolError
	case short < 126:
		length = uint64(short)
	case short == 126 && r.have == 4:
		length = uint64(binary.BigEndian.Uint16(r.header[2:]))
	case short == 127 && r.have == 10:
		length = binary.BigEndian.Uint64(r.header[2:])
		if length>>63 != 0 {
			return CloseProtocolError // RFC 6455 section 5.2
		}
	default:
		return 0 // the length is not complete
	}
	if !r.isControl() {
		if length > MaxPayload || r.announced+uint32(length) > MaxPayload {
			return CloseTooBig
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
		return CloseProtocolError // a reserved bit, and no extension is ever negotiated
	}
	switch opcode {
	case OpContinuation:
		if r.fragments == 0 {
			return CloseProtocolError
		}
	case OpText, OpBinary:
		if r.fragments > 0 {
			return CloseProtocolError
		}
		r.opcode = opcode
	case OpClose, OpPing, OpPong:
		if !fin {
			return CloseProtocolError
		}
		if !r.controls.Allow(now, ControlRate, ControlBurst) {
			return ClosePolicy
		}
		return 0
	default:
		return CloseProtocolError
	}
	if r.fragments++; r.fragments > MaxFragments {
		return ClosePolicy
	}
	return 0
}

// closeAnswer is the code to answer a client's close frame with: its own, 0 if it has none, or what is wrong with it
// (RFC 6455 sections 5.5.1 and 7.4).
func closeAnswer(payload []byte) int {
	if len(payload) == 0 {
		return 0
	}
	if len(payload) == 1 {
		return CloseProtocolError
	}
	code := int(binary.BigEndian.Uint16(payload))
	switch {
	case code < 1000 || code >= 5000 || code >= 1004 && code <= 1006 || code >= 1015 && code < 3000:
		return CloseProtocolError
	case !utf8.Valid(payload[2:]):
		return CloseNotUTF8
	}
	return code
}
