// Package nfpm pins nfpm, which writes the Debian packages: go -C package/nfpm tool nfpm.
package nfpm
