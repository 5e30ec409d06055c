package conn

// The guard in front of gws: it cuts what a client sends into whole messages and control frames, in whatever pieces it
// comes.
//
// gws reads one message at a time and waits for the rest of it, allocates what a header announces, and has no bound on
// fragments and control frames (link.go). So every header is judged here, byte by byte and as the unsigned 64 bits it
// is, before anything is kept for it; and what is kept is never more than has come.

import (
	"encoding/binary"
	"sync"
)

// guard is the state of one client's stream (RFC 6455 section 5). One goroutine at a time may use it.
type guard struct {
	deflate bool // static: permessage-deflate was negotiated, so the first frame of a message may have RSV1

	header    [14]byte // of the frame being read: the longest there is
	have      uint8    // bytes of it that have come and are not kept yet
	inPayload bool
	fragments uint8      // frames of the message so far; 0 between messages
	left      uint32     // payload bytes of the frame still to come
	announced uint32     // payload bytes of the message, those still to come of this frame included
	frames    uint32     // begun so far
	kept      [2]*[]byte // what has come of a message, and of a control frame, that is not whole; from messageBuffers
	handedOn  *[]byte    // what was kept of what next has returned; nil for nothing
	controls  Rate
}

// next reads on in p until a message or control frame is whole, p ends or a rule is broken. frames is what is whole, as
// it came: headers, masked payload and, for a message, all of its fragments. It is valid until release, which is to be
// called before next is called again. rest is what next has not read. code is 0 or the close code for the byte at which
// rest begins; after that the guard must not be used any more. now is in nanoseconds of a monotonic clock.
func (g *guard) next(p []byte, now int64) (frames, rest []byte, code int) {
	at := 0
	for at < len(p) && frames == nil {
		if !g.inPayload {
			if code := g.judge(p[at], now); code != 0 {
				return nil, p[at:], code
			}
			if at++; !g.inPayload {
				continue
			}
		}
		from := at
		at = min(len(p), from+int(g.left))
		if g.left -= uint32(at - from); g.left == 0 {
			frames = g.whole(p, from, at)
		} else if at > from { // nothing is kept for a header alone
			g.keep(p[from:at])
		}
	}
	return frames, p[at:], 0
}

// judge takes the next byte of a header, and returns a close code if it breaks a rule.
func (g *guard) judge(b byte, now int64) (code int) {
	g.header[g.have] = b
	if g.have++; g.have == 1 {
		return g.judgeFirst(now)
	}
	size, length := uint8(2), uint64(g.header[1]&0x7f) // of the header before the masking key; of the payload
	switch {
	case g.header[1]&0x80 == 0 || g.control() == 1 && length > MaxControlFrame:
		return CloseProtocolError // not masked (section 5.1), or too long (section 5.5)
	case length == 126:
		size, length = 4, uint64(binary.BigEndian.Uint16(g.header[2:]))
	case length == 127:
		size, length = 10, binary.BigEndian.Uint64(g.header[2:])
	}
	g.inPayload = g.have == size+4
	switch {
	case g.have != size:
		return 0
	case length>>63 != 0:
		return CloseProtocolError // section 5.2
	case length > MaxPayload || g.control() == 0 && g.announced+uint32(length) > MaxPayload:
		return CloseTooBig
	case g.control() == 0:
		g.announced += uint32(length)
	}
	g.left = uint32(length)
	return 0
}

// judgeFirst judges the first byte of a header: FIN, RSV and opcode.
func (g *guard) judgeFirst(now int64) (code int) {
	g.frames++
	fin, reserved, opcode := g.header[0]&0x80 != 0, g.header[0]&0x70, g.header[0]&0xf
	begins := opcode == OpText || opcode == OpBinary
	switch {
	case reserved != 0 && !(g.deflate && begins && reserved == Rsv1), // RFC 7692 section 6
		opcode > OpBinary && opcode < OpClose, opcode > OpPong,
		g.control() == 1 && !fin, g.control() == 0 && begins != (g.fragments == 0):
		return CloseProtocolError
	case g.control() == 1 && !g.controls.Allow(now, ControlRate, ControlBurst),
		g.control() == 0 && g.fragments == MaxFragments:
		return ClosePolicy
	case g.control() == 0:
		g.fragments++
	}
	return 0
}

// control is 1 in a control frame, and 0 in a frame of a message: the place in kept.
func (g *guard) control() int { return int(g.header[0] >> 3 & 1) }

// whole is called when a frame ends at p[at], with the last of its payload from p[from] on. It returns what is to be
// handed on, or nil after a fragment that is not the last of its message.
func (g *guard) whole(p []byte, from, at int) (frames []byte) {
	fin, kept, begin := g.header[0]&0x80 != 0, &g.kept[g.control()], from-int(g.have)
	if fin && *kept == nil && begin >= 0 {
		frames = p[begin:at] // by far the most common: no copy
	} else {
		g.keep(p[from:at])
	}
	if g.have, g.inPayload = 0, false; !fin {
		return nil
	}
	if *kept != nil {
		frames, g.handedOn, *kept = **kept, *kept, nil
	}
	if g.control() == 0 {
		g.fragments, g.announced = 0, 0
	}
	return frames
}

// keep keeps a copy of a piece of the frame being read, and before the first of them its header.
func (g *guard) keep(piece []byte) {
	kept := &g.kept[g.control()]
	if *kept == nil {
		*kept = messageBuffers.Get().(*[]byte)
		**kept = (**kept)[:0]
	}
	**kept = append(append(**kept, g.header[:g.have]...), piece...)
	g.have = 0
}

// release gives back the memory of what was handed on.
func (g *guard) release() {
	if g.handedOn != nil {
		messageBuffers.Put(g.handedOn)
		g.handedOn = nil
	}
}

// messageBuffers are for what is not whole, which is never more than a message with its headers.
var messageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// idle reports whether nothing has begun that is not whole.
func (g *guard) idle() bool { return g.have == 0 && !g.inPayload && g.fragments == 0 }

// held is how many bytes of memory is kept for what is not whole.
func (g *guard) held() (bytes int) {
	for _, kept := range g.kept {
		if kept != nil {
			bytes += cap(*kept)
		}
	}
	return bytes
}
