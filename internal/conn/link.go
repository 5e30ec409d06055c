package conn

// How gws carries the WebSocket (RFC 6455) of connections that hold nothing while they are idle.
//
// A gws.Conn reads from a net.Conn until a message is whole. Ours is a link: it only ever holds one whole message or
// one control frame, which guard has cut from the stream, so gws never waits. Between messages a gws.Conn has no state
// (there is no context takeover), so those that read share a few. gws does the handshake, unmasking, reassembly, UTF-8,
// inflation, pongs and the answer to a close; what it writes ends in the connection, whose writes never block.

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"
)

// DeflateFrom is how many bytes a message has that is worth compressing.
const DeflateFrom = 200

// frameWriter sends what gws writes while a link reads.
type frameWriter interface {
	write(frame []byte)            // a pong
	Close(code int, reason string) // with a close frame, if none was sent before; code 0 is one without a code
}

// link is the net.Conn under a gws.Conn. One goroutine at a time may use it.
type link struct {
	net.Conn // nil: the rest of it is not called

	// Static after newLink.
	ws      *gws.Conn
	buffer  *bufio.Reader // of ws; of the least size, since frames are in memory already
	request *http.Request // for handshakes,
	key     []string      // and its key

	in    []byte      // what ws is to read,
	then  []byte      // and after that
	out   []byte      // what ws has written; only while there is no writer
	above frameWriter // nil but in read
}

// noMessage is an empty text message, masked. ReadMessage does not return after a control frame but reads on, so this
// follows each.
var noMessage = []byte{0x80 | OpText, 0x80, 0, 0, 0, 0}

// read has gws read frames, which guard has cut. It returns the message in them, for endMessage, or nil if they were a
// control frame, which is answered. Not ok is a link that must not be used any more, whose connection has been closed.
func (l *link) read(frames []byte, above frameWriter) (m *gws.Message, ok bool) {
	l.in, l.above = frames, above
	control := frames[0]&0x8 != 0
	if control {
		l.then = noMessage
	}
	m, err := l.ws.ReadMessage()
	if err != nil {
		return nil, false
	}
	if len(l.in)+len(l.then)+l.buffer.Buffered() > 0 {
		l.outOfStep()
		return nil, false
	}
	if l.above = nil; control {
		endMessage(m)
		m = nil
	}
	return m, true
}

// outOfStep ends a connection whose frames gws has taken for others than guard. There is no way to go on.
func (l *link) outOfStep() {
	slog.Error("gws and guard disagree on the frames of a client, whose connection ends")
	l.above.Close(CloseInternal, "internal error")
}

// Poison overwrites messages before gws uses their memory again, so that who still reads them is found out. Only tests
// set it.
var Poison func(message []byte)

// endMessage gives the memory of a message back.
func endMessage(m *gws.Message) {
	if Poison != nil {
		Poison(m.Bytes())
	}
	m.Close()
}

// Read gives gws the frames of read.
func (l *link) Read(p []byte) (n int, err error) {
	if len(l.in) == 0 {
		l.in, l.then = l.then, nil
	}
	if len(l.in) == 0 {
		l.outOfStep()
		return 0, io.ErrUnexpectedEOF
	}
	n = copy(p, l.in)
	l.in = l.in[n:]
	return n, nil
}

// Write takes a whole frame from gws, or the answer to a handshake.
func (l *link) Write(p []byte) (int, error) {
	switch {
	case l.above == nil:
		l.out = append(l.out, p...)
	case p[0]&0xf == OpClose:
		l.above.Close(closeOf(p))
	default:
		l.above.write(p)
	}
	return len(p), nil
}

// closeOf returns what a close frame of gws says. That a message cannot be inflated has no code of its own: 1009 if it
// is too large, as without compression, else 1007, since it is not what it should be.
func closeOf(frame []byte) (code int, reason string) {
	_, payload, _ := NextServerFrame(frame)
	if len(payload) < 2 {
		return 0, ""
	}
	code, reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
	switch {
	case code == CloseInternal && reason == gws.ErrMessageTooLarge.Error():
		return CloseTooBig, FrameProblem(CloseTooBig)
	case code == CloseInternal:
		return CloseNotUTF8, "messages must be compressed as RFC 7692 says"
	case code == CloseNotUTF8:
		return code, "messages must be UTF-8"
	}
	return code, strings.TrimPrefix(reason, "gws: ")
}

func (l *link) Close() error                { return nil }
func (l *link) SetDeadline(time.Time) error { return nil }

// pings answers a ping with what it carried (RFC 6455 section 5.5.3); gws by itself does so without.
type pings struct{ gws.BuiltinEventHandler }

func (pings) OnPing(ws *gws.Conn, payload []byte) { ws.WritePong(payload) }

// links are links that nobody uses at the moment.
type links struct {
	upgrader   *gws.Upgrader
	extensions []string // that they have negotiated
	idle       sync.Pool
}

// plainLinks are for connections without compression, and deflateLinks for those with it, which cost 0.9 MB once there
// is one.
var (
	plainLinks   = newLinks(false)
	deflateLinks = sync.OnceValue(func() *links { return newLinks(true) })
)

func newLinks(deflate bool) *links {
	p := &links{upgrader: gws.NewUpgrader(pings{}, &gws.ServerOption{
		ReadMaxPayloadSize: MaxPayload,
		CheckUtf8Enabled:   true,
		ParallelGolimit:    1,
		NewSession:         func() gws.SessionStorage { return nil },
		PermessageDeflate:  gws.PermessageDeflate{Enabled: deflate, PoolSize: 1, Threshold: DeflateFrom},
	})}
	if deflate {
		p.extensions = []string{"permessage-deflate"}
	}
	p.idle.New = p.newLink
	return p
}

func (p *links) get() *link  { return p.idle.Get().(*link) }
func (p *links) put(l *link) { p.idle.Put(l) }

// newLink makes a link for idle.
func (p *links) newLink() any {
	l := &link{key: []string{""}}
	l.buffer = bufio.NewReaderSize(l, 16)
	l.request = &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection":               {"Upgrade"},
		"Upgrade":                  {"websocket"},
		"Sec-Websocket-Version":    {"13"},
		"Sec-Websocket-Key":        l.key,
		"Sec-Websocket-Extensions": p.extensions,
	}}
	l.ws = p.upgrade(l, "of nobody")
	l.out = nil
	return l
}

// upgrade has gws answer a handshake with this key, whose request is otherwise as simple as gws wants it: it does not
// know lists in headers. The answer is in l.out.
func (p *links) upgrade(l *link, key string) *gws.Conn {
	l.key[0] = key
	ws, err := p.upgrader.UpgradeFromConn(l, l.buffer, l.request)
	if err != nil {
		panic(err) // it refuses requests only, and this one is ours
	}
	return ws
}

// handshake appends the answer to a handshake with this key (RFC 6455 section 4.2.2). checkHandshake has judged the
// request.
func (p *links) handshake(dst []byte, key string) []byte {
	l := p.get()
	l.out = dst
	p.upgrade(l, key) // the connection will be read by any link
	dst, l.out = l.out, nil
	p.put(l)
	return dst
}

// AppendDeflated appends the text frame with which frame begins, one of ours, for every client that has negotiated
// compression, and returns what follows it in frame. It is compressed if it is long enough.
func AppendDeflated(dst, frame []byte) (_, rest []byte) {
	_, message, rest := NextServerFrame(frame)
	p := deflateLinks()
	l := p.get()
	l.out = dst
	err := l.ws.WriteMessage(gws.OpcodeText, message)
	if err != nil { // it refuses text that is not UTF-8, which ours always is
		return append(dst, frame[:len(frame)-len(rest)]...), rest
	}
	dst, l.out = l.out, nil
	p.put(l)
	return dst, rest
}
