package listen

import (
	"bytes"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edge/internal/edgetest"
)

// TestCertificateEnds: that clients will not take a certificate is said when it is read, and again after a day.
func TestCertificateEnds(t *testing.T) {
	start := time.Now()
	dir, _ := edgetest.CertDir(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(start)) // in a bubble it is the year 2000
		var out bytes.Buffer
		log.SetOutput(&out)
		defer log.SetOutput(os.Stderr)
		said := func(want string) {
			t.Helper()
			got := out.String()
			out.Reset()
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("said %q, want %q", got, want)
			}
		}
		c, err := Load(filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		said("")
		leaf := *c.cert.Leaf
		c.cert.Leaf.NotBefore = time.Now().Add(time.Hour)
		c.warnLocked()
		said("does not hold yet")
		*c.cert.Leaf = leaf
		for _, later := range []struct {
			wait time.Duration
			want string
		}{
			{time.Hour, ""}, {23 * time.Hour, ""},
			{time.Until(c.cert.Leaf.NotAfter.Add(-10*Day - time.Hour)), "ends soon"},
			{time.Hour, ""}, {11 * Day, "has ended"},
		} {
			time.Sleep(later.wait)
			c.get(nil)
			said(later.want)
		}
	})
}

// TestCertificateSwap: files that change are read again, at most once a second, and what cannot be read leaves the old
// one.
func TestCertificateSwap(t *testing.T) {
	dir, _ := edgetest.CertDir(t)
	c, err := Load(filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		cert, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	edgetest.CertDirAgain(t, dir)
	if serial() != first {
		t.Error("read again within a second")
	}
	c.checked = time.Time{}
	second := serial()
	if second == first {
		t.Error("the old certificate after a second")
	}
	var out bytes.Buffer
	log.SetOutput(&out)
	defer log.SetOutput(os.Stderr)
	if err := os.WriteFile(filepath.Join(dir, "edge.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if c.checked = (time.Time{}); serial() != second {
			t.Error("the certificate is another")
		}
	}
	if n := strings.Count(out.String(), "the old one stays"); n != 1 {
		t.Errorf("said %d times that it cannot be read:\n%s", n, out.String())
	}
}
