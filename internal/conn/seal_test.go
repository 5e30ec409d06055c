package conn

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"edge/internal/edgetest"
)

// TestTLSReadsAgain: edge relies on a tls.Conn that reads on after its Read has returned os.ErrDeadlineExceeded.
func TestTLSReadsAgain(t *testing.T) {
	dir, trust := edgetest.CertDir(t)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		near, far := net.Pipe()
		pipe, wire := &cipherPipe{Conn: far}, &tap{Conn: near}
		config := trust.Clone()
		config.MaxVersion = version
		server, peer := tls.Server(pipe, &tls.Config{Certificates: []tls.Certificate{cert}}), tls.Client(wire, config)
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, peer) })
		if err := server.Handshake(); err != nil {
			t.Fatal(err)
		}
		peer.Handshake() // or the record below might be one of it
		pipe.below.Store(new(Conn))
		wire.tapped.Store(true)
		peer.Write([]byte("hello"))
		var got []byte
		for _, b := range wire.written {
			pipe.in = []byte{b}
			buf := make([]byte, 16)
			n, err := server.Read(buf)
			for ; err == nil; n, err = server.Read(buf) {
				got = append(got, buf[:n]...)
			}
			if n > 0 || !isTimeout(err) {
				t.Fatalf("%s: %d, %v", tls.VersionName(version), n, err)
			}
		}
		if string(got) != "hello" {
			t.Errorf("%s: read %q", tls.VersionName(version), got)
		}
		near.Close()
		reading.Wait()
	}
}

// tap keeps what is written, once it is tapped, instead of sending it.
type tap struct {
	net.Conn
	tapped  atomic.Bool
	written []byte
}

func (w *tap) Write(p []byte) (int, error) {
	if !w.tapped.Load() {
		return w.Conn.Write(p)
	}
	w.written = append(w.written, p...)
	return len(p), nil
}
