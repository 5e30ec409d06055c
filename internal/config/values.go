package config

// The values of options, but for those that belong to a room of their own.

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"edge/internal/listen"
	"edge/internal/webhook"
	"edge/internal/wire"
)

// one sets what parse makes of a value, of several of the last.
func one[T any](to *T, parse func(string) (T, error)) func([]string) error {
	return func(values []string) (err error) {
		*to, err = parse(values[len(values)-1])
		return err
	}
}

// list sets what parse makes of all that split finds in values.
func list[T any](to *[]T, split func(string) []string, parse func(string) (T, error)) func([]string) error {
	return func(values []string) error {
		*to = nil
		for _, v := range values {
			for _, text := range split(v) {
				item, err := parse(text)
				if err != nil {
					return err
				}
				*to = append(*to, item)
			}
		}
		return nil
	}
}

func text(s string) (string, error) { return s, nil }

func whole(s string) []string { return []string{s} }

// byComma returns what stands between commas, without spaces around it.
func byComma(s string) (found []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			found = append(found, item)
		}
	}
	return found
}

func boolean(s string) (bool, error) {
	on, err := strconv.ParseBool(s)
	if err != nil {
		err = errors.New("it must be true or false")
	}
	return on, err
}

func number(to *int, least, most int) func([]string) error {
	return one(to, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			err = fmt.Errorf("it must be a whole number from %d to %d", least, most)
		}
		return n, err
	})
}

// duration takes 90s, 2m or 1h30m; a number alone counts seconds.
func duration(to *time.Duration, least time.Duration) func([]string) error {
	return one(to, func(s string) (time.Duration, error) {
		if _, err := strconv.Atoi(s); err == nil {
			s += "s"
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < least {
			err = fmt.Errorf("it must be a time like 30s or 2m, at least %s", least)
		}
		return d, err
	})
}

// prefix takes the beginning of a path, with or without slashes around it; off is none.
func prefix(s string) (string, error) {
	if s = strings.Trim(s, "/"); s == "" || s == "off" {
		return "", nil
	}
	if s = "/" + s; strings.ContainsAny(s, "?#%{}\\ \t") || path.Clean(s) != s {
		return "", errors.New("it must be the beginning of a path, like /edge")
	}
	return s, nil
}

// signers takes true, which stands for this machine, false, or addresses and networks with commas between them.
func signers(s string) (all []netip.Prefix, err error) {
	switch on, err := strconv.ParseBool(s); {
	case err == nil && on:
		return listen.Loopback, nil
	case err == nil:
		return nil, nil
	}
	if err = list(&all, byComma, listen.ParseNetwork)([]string{s}); err != nil || all == nil {
		err = errors.New("it must be true, false or addresses and networks like 192.168.1.0/24, with commas")
	}
	return all, err
}

// logFormat takes auto and logfmt too, old names of text.
func logFormat(s string) (string, error) {
	if !slices.Contains([]string{"auto", "text", "logfmt", "json"}, s) {
		return "", errors.New("it must be one of text, json")
	}
	return s, nil
}

// noneID cannot be the id of an app: it is that of the one for requests that name none.
const NoneID = "(none)"

func appID(s string) (string, error) {
	if s == NoneID {
		return "", errors.New("that stands for requests that name no app")
	}
	return s, nil
}

// keyName takes the name of a key, and "" for none.
func keyName(s string) (string, error) {
	if s != "" && !wire.ValidKey(s) {
		return "", errors.New("it is part of URLs and may have letters, digits, - _ and .")
	}
	return s, nil
}

// pair takes KEY:SECRET.
func pair(s string) (Key, error) {
	key, secret, _ := strings.Cut(s, ":")
	if !wire.ValidKey(key) || secret == "" {
		return Key{}, errors.New("it must be KEY:SECRET, or several with spaces between")
	}
	return Key{key, secret}, nil
}

// origin takes what the server can compare: an origin as browsers send it, a host, *.host or *.
func origin(s string) (string, error) {
	if s == "*" || strings.EqualFold(s, "file://") { // pages of an app have it
		return s, nil
	}
	scheme, host, full := strings.Cut(strings.TrimSuffix(s, "/"), "://")
	if !full {
		scheme, host = "", strings.TrimPrefix(s, "*.")
	}
	port := !full && strings.Contains(host, ":") && !strings.HasSuffix(host, "]")
	if full && scheme == "" || host == "" || host[0] == '.' || port || strings.ContainsAny(host, "/*?#@ ") {
		return "", fmt.Errorf("no page has the origin %q: it must be like https://example.com, http://localhost:8080, "+
			"example.com or *.example.com", s)
	}
	if full {
		return scheme + "://" + host, nil
	}
	return s, nil
}

// hookURL takes what webhook.Check accepts.
func hookURL(s string) (string, error) {
	_, err := webhook.Check(s)
	return s, err
}
