package edgetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CertDir makes an authority and a certificate for localhost, and returns their directory.
func CertDir(t testing.TB) (dir string, trust *tls.Config) {
	t.Helper()
	dir = t.TempDir()
	authority := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	MakePair(t, filepath.Join(dir, "edge-ca"), nil, authority)
	CertDirAgain(t, dir)
	trust = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	trust.RootCAs.AddCert(LoadPair(t, filepath.Join(dir, "edge-ca")).Leaf)
	return dir, trust
}

// CertDirAgain makes another certificate of the same authority.
func CertDirAgain(t testing.TB, dir string) {
	t.Helper()
	loopback := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	MakeLeaf(t, dir, dir, &x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: loopback})
}

// MakeLeaf makes a server's certificate in dir, of the authority in another directory. The template has the names.
func MakeLeaf(t testing.TB, authorityDir, dir string, template *x509.Certificate) {
	t.Helper()
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	MakePair(t, filepath.Join(dir, "edge"), LoadPair(t, filepath.Join(authorityDir, "edge-ca")), template)
}

// LoadPair reads a certificate and its key.
func LoadPair(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(name+".pem", name+"-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// MakePair makes a certificate and its key, signed by the authority, or by itself without one.
func MakePair(t testing.TB, name string, authority *tls.Certificate, template *x509.Certificate) {
	t.Helper()
	template.SerialNumber, template.Subject.CommonName = big.NewInt(time.Now().UnixNano()), filepath.Base(name)
	template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(365*24*time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, any(key)
	if authority != nil {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := x509.MarshalPKCS8PrivateKey(key)
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{name + "-key.pem", "PRIVATE KEY", private}, {name + ".pem", "CERTIFICATE", cert}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TLSArgs are the flags for the certificate in a directory of CertDir.
func TLSArgs(dir string) []string {
	return []string{"-tls-cert", filepath.Join(dir, "edge.pem"), "-tls-key", filepath.Join(dir, "edge-key.pem")}
}
