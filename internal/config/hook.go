package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"edge/internal/wire"
)

var hookEvents = []string{wire.HookOccupied, wire.HookVacated, wire.HookMemberAdded, wire.HookMemberRemoved,
	wire.HookClientEvent, wire.HookCacheMiss, wire.HookSubscriptionCount}

// checkHook judges a hook's URL, and returns it without what may be secret in it. The room of webhooks is to do so.
func checkHook(s string) (shown string, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("it must be a URL that begins with http:// or https://")
	}
	wants, err := url.ParseQuery(u.EscapedFragment())
	if err != nil {
		return "", errors.New("what follows the # must be like " +
			"events=channel_occupied,channel_vacated&prefix=presence-")
	}
	for name := range wants {
		if name != "events" && name != "prefix" {
			return "", fmt.Errorf("after the # it may have events and prefix, not %q", name)
		}
	}
	for name := range strings.SplitSeq(wants.Get("events"), ",") {
		if !slices.Contains(hookEvents, name) && wants.Get("events") != "" {
			return "", fmt.Errorf("there is no event %q; there are %s", name, strings.Join(hookEvents, ", "))
		}
	}
	return u.Scheme + "://" + u.Host + u.Path, nil
}
