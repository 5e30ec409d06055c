package listen

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

const Day = 24 * time.Hour

// certificateCheck is how often a handshake looks whether the files have changed.
const certificateCheck = time.Second

// Certificate is the server's certificate and key.
type Certificate struct {
	mu       sync.Mutex // guards the following
	cert     *tls.Certificate
	files    [2]string
	read     [2]os.FileInfo // as they were when they were read
	checked  time.Time      // when that was last compared,
	warned   time.Time      // and when warnLocked was called
	reported bool           // that they cannot be read
}

// Load reads a certificate and its key from two files in PEM.
func Load(cert, key string) (*Certificate, error) {
	c := new(Certificate)
	return c, c.Use(cert, key)
}

// Use makes it the certificate of these files. If they do not fit, it stays what it was.
func (c *Certificate) Use(cert, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.useLocked([2]string{cert, key})
}

func (c *Certificate) useLocked(files [2]string) error {
	read := stat(files) // before reading: what is written in between is read again
	pair, err := tls.LoadX509KeyPair(files[0], files[1])
	if err != nil {
		return fmt.Errorf("cannot use the certificate %s with the key %s: %w", files[0], files[1], err)
	}
	c.cert, c.files, c.read, c.reported = &pair, files, read, false
	c.warnLocked()
	return nil
}

// warnLocked says, once a day, if clients do not take the certificate, or soon will not.
func (c *Certificate) warnLocked() {
	c.warned = time.Now()
	switch leaf := c.cert.Leaf; {
	case time.Now().Before(leaf.NotBefore):
		slog.Warn("the certificate does not hold yet, or the clock is wrong",
			"file", c.files[0], "from", leaf.NotBefore)
	case time.Now().After(leaf.NotAfter):
		slog.Error("the certificate has ended: clients refuse it", "file", c.files[0], "on", leaf.NotAfter)
	case time.Until(leaf.NotAfter) < 30*Day:
		slog.Warn("the certificate ends soon", "file", c.files[0], "days left", int(time.Until(leaf.NotAfter)/Day))
	}
}

func stat(files [2]string) (info [2]os.FileInfo) {
	for i, name := range files {
		info[i], _ = os.Stat(name)
	}
	return info
}

// get returns the certificate for a handshake, as the files have it. One that cannot be read leaves the old one.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certificateCheck {
		c.checked = now
		if now.Sub(c.warned) >= Day {
			c.warnLocked()
		}
		if now := stat(c.files); changed(now, c.read) {
			if err := c.useLocked(c.files); err == nil {
				slog.Info("the certificate has changed", "file", c.files[0])
			} else if !c.reported {
				c.reported = true
				slog.Error("the certificate has changed and cannot be read: the old one stays", "error", err)
			}
		}
	}
	return c.cert, nil
}

// changed reports whether the files are there and others than before.
func changed(now, before [2]os.FileInfo) bool {
	for i := range now {
		if now[i] == nil || before[i] == nil {
			return now[i] != nil
		}
		if !os.SameFile(now[i], before[i]) || !now[i].ModTime().Equal(before[i].ModTime()) ||
			now[i].Size() != before[i].Size() {
			return true
		}
	}
	return false
}

// Expiry is when the certificate ends, in seconds since 1970.
func (c *Certificate) Expiry() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert.Leaf.NotAfter.Unix()
}

func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
}
