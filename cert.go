package main

// edge cert: a certificate for machines that have no name in the world, and the authority that signs it. Pages served over https
// may only use wss, which browsers do only with a certificate they trust.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	day           = 24 * time.Hour
	authorityLife = 3650 * day
	leafLife      = 820 * day // Apple's devices take 825 at most from an authority that someone has added
)

const aboutCert = `Makes edge.pem and edge-key.pem: a certificate for localhost, the names and addresses of this machine, and every NAME, which may
be an address. The authority that signs it, edge-ca.pem, is made if it is not there.

  edge cert
  edge cert -dir /etc/edge gateway.lan 192.168.1.10
`

// certCommand makes an authority, unless there is one, and a certificate of it.
func (p *program) certCommand() error {
	var dir string
	more, err := p.ownOptions([]option{{name: "dir", value: ".", help: "directory of all these files (default .)", set: text(&dir)}})
	if err != nil {
		return err
	}
	if now := time.Now(); now.Before(builtAt()) {
		return fmt.Errorf("the clock of this machine says %s, which cannot be: set it first, or the certificate will not hold", now.Format(time.DateTime))
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	authority, made, err := makeAuthority(file("edge-ca.pem"), file("edge-ca-key.pem"))
	if err != nil {
		return err
	}
	names := append(localNames(), more...)
	if err := makeLeaf(authority, names, file("edge.pem"), file("edge-key.pem")); err != nil {
		return err
	}
	what := "the authority there was"
	if made {
		what = "a new authority of your own"
	}
	fmt.Fprintf(p.stdout, certText, file("edge.pem"), strings.Join(names, ", "), what, file("edge.pem"), file("edge-key.pem"), file("edge-ca.pem"), file("edge-ca-key.pem"))
	return nil
}

const certText = `Made %s, for %s, signed by %s.

Start edge with it, and it is read again by itself when you make another before it ends:
  edge -tls-cert %s -tls-key %s

Every device that is to connect has to trust %s once:
  Debian, Ubuntu  copy it to /usr/local/share/ca-certificates/edge-ca.crt, then run update-ca-certificates
  Fedora          copy it to /etc/pki/ca-trust/source/anchors/, then run update-ca-trust
  Chrome on Linux certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n edge -i edge-ca.pem
  Firefox         Settings, Certificates, View, Authorities, Import
  macOS           security add-trusted-cert -d -k /Library/Keychains/System.keychain edge-ca.pem
  Windows         certutil -addstore Root edge-ca.pem
  iOS             send it to the device, install the profile, then switch it on under General, About, Certificate Trust
  Android         Security, Encryption, Install a certificate, CA certificate
  Node            NODE_EXTRA_CA_CERTS=edge-ca.pem

Keep %s to yourself: whoever has it can pretend to be any site to those devices.
`

// localNames are the names and addresses under which this machine is found from where there is no DNS.
func localNames() []string {
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		short, _, _ := strings.Cut(host, ".")
		names = append(names, host, short+".local")
	}
	names = append(names, "127.0.0.1", "::1")
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			names = append(names, n.IP.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// makeAuthority reads the authority in these files, or makes one if there are none.
func makeAuthority(certFile, keyFile string) (authority tls.Certificate, made bool, err error) {
	authority, err = tls.LoadX509KeyPair(certFile, keyFile)
	if !os.IsNotExist(err) {
		return authority, false, err
	}
	for _, name := range []string{certFile, keyFile} {
		if _, err := os.Stat(name); err == nil {
			return authority, false, fmt.Errorf("%s is there, but what belongs to it is not: move it away to get a new authority", name)
		}
	}
	host, _ := os.Hostname()
	template := certTemplate("edge on "+host, authorityLife)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if err := makePair(template, nil, certFile, keyFile); err != nil {
		return authority, false, err
	}
	authority, err = tls.LoadX509KeyPair(certFile, keyFile)
	return authority, true, err
}

// makeLeaf makes a certificate of the authority for servers with these names and addresses.
func makeLeaf(authority tls.Certificate, names []string, certFile, keyFile string) error {
	template := certTemplate(names[0], leafLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return makePair(template, &authority, certFile, keyFile)
}

func certTemplate(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails (crypto/rand)
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"edge"}},
		NotBefore:    now.Add(-day), // the clocks of devices differ
		NotAfter:     now.Add(life),
	}
}

// makePair makes a key and its certificate, signed by the authority, or by itself without one.
func makePair(template *x509.Certificate, authority *tls.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	parent, signer := template, any(key)
	if authority != nil {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writeFile(certFile, "CERTIFICATE", cert, 0o644)
}

// writeFile puts a file in the place of the old one at once, so that whoever reads it meanwhile gets one of them. It is as
// readable as the old one was: a service may not be able to read what is root's alone.
func writeFile(name, kind string, der []byte, mode os.FileMode) error {
	next := name + ".new"
	os.Remove(next) // or it would keep its mode
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return err
	}
	if old, err := os.Stat(name); err == nil {
		if err := errors.Join(giveTo(next, old), os.Chmod(next, old.Mode().Perm())); err != nil {
			return err
		}
	}
	return os.Rename(next, name)
}
