//go:build unix

package test

// Floods: far more of something than is good. Each alone must leave others unharmed and nothing behind; all together
// must fit into 128 MiB. TEST_FULL=1 runs them at the size of a release.

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edge/internal/edgetest"
)

// tally counts the answers that have one of the texts; another one fails the test.
func tally(t *testing.T, answer string, counts map[string]*atomic.Int64) string {
	for text, n := range counts {
		if strings.Contains(answer, text) {
			n.Add(1)
			return text
		}
	}
	t.Errorf("answered with %.200s", answer)
	return ""
}

// TestConnectionFlood: of three times as many connections as are allowed exactly those are let in, and when they have
// gone as many others are.
func TestConnectionFlood(t *testing.T) {
	const in, out = "connection_established", `"code":4004`
	limit := edgetest.Sized(200, 2000)
	metrics := edgetest.FreeAddr(t)
	p := edgetest.Start(t, "-max-connections", strconv.Itoa(limit), "-metrics-addr", metrics)
	for range 2 {
		counts := map[string]*atomic.Int64{in: {}, out: {}}
		var clients sync.Map
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 3 * limit / 10 {
					c := edgetest.Handshake(t, edgetest.Dial(t, p.Addr), edgetest.Path, "")
					if tally(t, c.Text(), counts) == in {
						clients.Store(c, nil)
					} else {
						c.Leave()
					}
				}
			})
		}
		wg.Wait()
		if counts[in].Load() != int64(limit) || counts[out].Load() != int64(2*limit) {
			t.Errorf("%d let in, %d refused, want %d and %d", counts[in].Load(), counts[out].Load(), limit, 2*limit)
		}
		clients.Range(func(c, _ any) bool {
			c.(*edgetest.Client).Leave()
			return true
		})
		edgetest.WaitUntil(t, "all have gone", func() bool {
			_, page := edgetest.Get(t, "http://"+metrics+"/metrics")
			return strings.Contains(page, "\nedge_connected{") && strings.Contains(page, "} 0\n# HELP edge_new_connections")
		})
	}
}

// TestSubscribeFlood: distinct names without end make no more channels than connections may have, and leave
// nothing behind.
func TestSubscribeFlood(t *testing.T) {
	edgetest.NeedsLinux(t)
	const in, out, most, perSecond = "subscription_succeeded", "subscription_error", 1000, 200
	conns, names := edgetest.Sized(20, 100), edgetest.Sized(1100, 10_000)
	p := edgetest.StartPlain(t)
	flood := func() {
		var wg sync.WaitGroup
		for i := range conns {
			c := edgetest.Connect(t, p.Addr)
			c.Conn.SetDeadline(time.Now().Add(edgetest.Patience + 5*time.Duration(names/perSecond)*time.Second))
			wg.Go(func() {
				defer c.Leave()
				go func() { // ends when all are sent
					for n := range names {
						c.Conn.Write(edgetest.SubscribeMessage(fmt.Sprintf("%0150d-%d", i, n), "", ""))
					}
				}()
				counts := map[string]*atomic.Int64{in: {}, out: {}}
				for range names {
					if tally(t, c.Text(), counts) == out {
						c.Text() // pusher:error
					}
				}
				if n := counts[in].Load(); n != int64(min(names, most)) {
					t.Errorf("%d of %d were not refused", n, names)
				}
			})
		}
		wg.Wait()
		expectNobody(t, p.Addr)
	}
	flood() // fills what is kept for later use
	before := p.Resident()
	flood()
	edgetest.WaitUntil(t, "as little is held as before", func() bool { return p.Resident() <= before+before/20+1<<20 })
}

// TestPresenceFlood: a thousand users want to join one channel. A hundred do, the others are told.
func TestPresenceFlood(t *testing.T) {
	const in, out = "subscription_succeeded", `"type":"LimitReached"`
	edgetest.Descriptors(t, 2100)
	p := edgetest.Start(t)
	counts := map[string]*atomic.Int64{in: {}, out: {}}
	var wg sync.WaitGroup
	clients := make([]*edgetest.Client, 1000)
	for i := range clients {
		clients[i] = edgetest.Connect(t, p.Addr)
	}
	info := edgetest.Quote(strings.Repeat("i", 1000))
	for i, c := range clients {
		wg.Go(func() {
			c.Subscribe("presence-x", fmt.Sprintf(`{"user_id":"%d","user_info":%s}`, i, info))
			tally(t, c.Text(), counts)
		})
	}
	wg.Wait()
	_, answer := edgetest.Call(t, p.Addr, "GET", "/apps/1/channels/presence-x", "info=user_count", "")
	if counts[in].Load() != 100 || counts[out].Load() != 900 || answer != `{"occupied":true,"user_count":100}` {
		t.Errorf("%d are in, %d refused, the channel is %s", counts[in].Load(), counts[out].Load(), answer)
	}
}

// memoryGroup makes a control group with so much memory, and returns its directory, or "" where that is not allowed.
func memoryGroup(t *testing.T, bytes int) (dir string) {
	t.Helper()
	for _, name := range []string{"memory/*/memory.limit_in_bytes", "*/memory.max"} { // of version 1, or of 2
		name = filepath.Join("/sys/fs/cgroup", strings.Replace(name, "*", fmt.Sprintf("edge-test-%d", os.Getpid()), 1))
		dir = filepath.Dir(name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(name, []byte(strconv.Itoa(bytes)), 0) != nil {
			os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			edgetest.WaitUntil(t, "the group is gone", func() bool {
				err := os.Remove(dir)
				return err == nil || os.IsNotExist(err)
			})
		})
		return dir
	}
	return ""
}

// peakOf is the most memory that a control group has used, by its name in version 1 or in version 2.
func peakOf(dir string) (n int) {
	for _, name := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			n, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
	}
	return n
}

// TestMemoryUnderFloods runs all floods at once against an edge that may use 128 MiB: it stays within them, answers a
// healthy client, and whoever keeps up loses nothing. Where no control group can be made, edge is told its budget and
// its peak is measured.
func TestMemoryUnderFloods(t *testing.T) {
	edgetest.NeedsLinux(t)
	const allowed = 128 << 20
	args := []string{"-activity-timeout", "1h", "-max-connections", strconv.Itoa(edgetest.Sized(2000, 6000))}
	group := memoryGroup(t, allowed)
	cmd := edgetest.Command(t, true, append(args, "-memory", strconv.Itoa(allowed/100*85))...)
	if group != "" {
		into := `echo $$ >` + group + `/cgroup.procs && exec "$0" "$@"`
		cmd = throughShell(edgetest.Command(t, true, args...), into)
	}
	p := edgetest.StartCommand(t, cmd)
	nb, limit := newNumbers(t, p.Addr), time.Duration(edgetest.Sized(5, 600))*time.Second
	var reading sync.WaitGroup
	for i := range subscribers { // before the floods: nobody new may be let in afterwards
		r := nb.newReader(edgetest.Connect(t, p.Addr), limit+edgetest.Patience, someChannels(i)...)
		reading.Go(r.follow)
	}
	healthy := edgetest.Connect(t, p.Addr)
	pings, slowest := 0, time.Duration(0)
	flooding := startHelper(t, "flooder", p.Addr, strconv.Itoa(edgetest.Sized(3, 30)))
	before, over := p.CPU(), time.Now().Add(limit)
	more := func(int) bool { return time.Now().Before(over) && !t.Failed() }
	reading.Go(func() {
		for ; more(0); time.Sleep(50 * time.Millisecond) {
			began := time.Now()
			healthy.Conn.SetDeadline(began.Add(edgetest.Patience))
			healthy.Settled()
			pings, slowest = pings+1, max(slowest, time.Since(began))
		}
	})
	if err := nb.publish(true, more); err != nil {
		t.Error(err)
	}
	nb.end(t)
	reading.Wait()
	flooding.Stop()
	edgetest.WaitUntil(t, "edge has recovered", func() bool {
		status, _ := edgetest.Call(t, p.Addr, "POST", "/apps/1/events", "", edgetest.EventBody("cache-x", "e", "x"))
		return status == 200
	})
	edgetest.Connect(t, p.Addr).Settled()
	peak := p.Status("VmHWM", false) << 10
	if group != "" {
		peak = peakOf(group)
	}
	t.Logf("peak: %d KiB, in a group: %t; healthy pings: %d, the slowest took %s", peak>>10, group != "", pings, slowest)
	t.Logf("%d deliveries, %.1f s of processor time", nb.received.Load(), (p.CPU()-before)/1e6)
	t.Logf("what there was: %s", flooding.Output())
	if peak > allowed || peak == 0 {
		t.Errorf("edge used %d bytes", peak)
	}
	if pings == 0 || edgetest.Full() && slowest > time.Second {
		t.Errorf("%d healthy pings, one was answered after %s", pings, slowest)
	}
}
