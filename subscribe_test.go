package main

// edge subscribe against servers that do what servers do, and what none should, over pipes and in no time at all.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"edge/internal/conn"
	"edge/internal/sign"
	"edge/internal/wire"
)

// subscribed is the server's end of a connection of edge subscribe.
type subscribed struct {
	t    *testing.T
	nc   net.Conn
	in   *bufio.Reader
	r    frameParser
	rest []byte
}

// meet makes a subscriber whose n-th connection, from 0, is served by serve, and what it prints and says.
func meet(t *testing.T, channels []string, serve func(n int, p *subscribed)) (s *subscriber, printed, said *bytes.Buffer) {
	printed, said = new(bytes.Buffer), new(bytes.Buffer)
	n := 0
	s = &subscriber{
		p:        &program{stdout: printed, stderr: said},
		channels: channels, user: "ada",
		remote: &remote{id: "1", key: testKey, network: "pipe", addr: "there:80"},
	}
	s.dial = func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		number := n
		n++
		go func() { // ends with the connection
			defer theirs.Close()
			serve(number, &subscribed{t: t, nc: theirs, in: bufio.NewReader(theirs)})
		}()
		return ours, nil
	}
	if err := s.introduce("{}"); err != nil {
		t.Fatal(err)
	}
	return s, printed, said
}

// upgrade answers the handshake, unless the other end has gone.
func (p *subscribed) upgrade() {
	r, err := http.ReadRequest(p.in)
	if err != nil {
		return
	}
	query := "protocol=7&client=edge&version=" + version
	if r.Method != "GET" || r.URL.Path != "/app/key" || r.URL.RawQuery != query || r.Host != "there:80" ||
		r.UserAgent() != "edge/"+version || r.Header.Get("Sec-WebSocket-Extensions") != "" {
		p.t.Errorf("the handshake is %+v", r)
	}
	p.write(upgraded(r.Header.Get("Sec-WebSocket-Key")))
}

// greet establishes the connection. answers are frames that follow at once.
func (p *subscribed) greet(answers ...[]byte) {
	p.upgrade()
	p.write(wire.AppendEstablished(nil, socketID("1.2"), 2*time.Minute))
	p.write(answers...)
}

func (p *subscribed) write(all ...[]byte) {
	for _, b := range all {
		p.nc.Write(b) // the other end may be gone
	}
}

// read returns the next frame, which must be as clients send them.
func (p *subscribed) read() (opcode byte, payload string) {
	for {
		if len(p.rest) == 0 {
			b := make([]byte, 4096)
			n, err := p.in.Read(b)
			if err != nil {
				return 0, err.Error()
			}
			p.rest = b[:n]
		}
		f, rest, code := p.r.next(p.rest, 0)
		if p.rest = rest; code != 0 {
			p.t.Errorf("a frame that deserves %d", code)
			return 0, ""
		}
		if f.opcode != conn.OpContinuation {
			payload = string(f.payload)
			p.r.release()
			return f.opcode, payload
		}
	}
}

// drain reads until the connection ends.
func (p *subscribed) drain() { io.Copy(io.Discard, p.in) }

func eventFrame(name, channel, data string) []byte {
	return wire.AppendEvent(nil, name, channel, wire.AppendString(nil, data), "")
}

// After the end of a connection comes another, or not, and when.
func TestSubscribeComesBack(t *testing.T) {
	closing := func(code int) func(*subscribed) {
		return func(p *subscribed) { p.write(closeFrame(code, "because")); p.drain() }
	}
	for _, c := range []struct {
		name     string
		lasts    time.Duration // the first connection
		end      func(*subscribed)
		at, most time.Duration // when the next begins, after that; -1 for never
		says     string
	}{
		{"4000", time.Minute, closing(4000), -1, 0, "the server refuses the connection: 4000 because"},
		{"4001", 0, closing(4001), -1, 0, "the server refuses the connection: 4001 because"},
		{"4099", time.Minute, closing(4099), -1, 0, "the server refuses the connection: 4099 because"},
		{"4300", time.Minute, closing(4300), -1, 0, "the server refuses the connection: 4300 because"},
		{"4100", time.Minute, closing(4100), time.Second, 2 * time.Second, "closed with 4100 because"},
		{"4199", 0, closing(4199), time.Second, 2 * time.Second, "closed with 4199 because"},
		{"4200", time.Minute, closing(4200), 0, 0, "closed with 4200 because"},
		{"4299", time.Minute, closing(4299), 0, 0, "closed with 4299 because"},
		{"1001", time.Minute, closing(1001), 50 * time.Millisecond, 100 * time.Millisecond, "closed with 1001 because"},
		{"without a code", time.Minute, func(p *subscribed) { p.write(closeFrame(0, "")); p.drain() }, 50 * time.Millisecond, 100 * time.Millisecond, "the server closed it"},
		{"cut off", time.Minute, func(*subscribed) {}, 50 * time.Millisecond, 100 * time.Millisecond, "the server closed it"},
		{"cut off in a frame", time.Minute, func(p *subscribed) { p.write([]byte{0x81}) }, 50 * time.Millisecond, 100 * time.Millisecond, "the server closed it"},
		{"stuck in a frame", time.Minute, func(p *subscribed) { p.write([]byte{0x81, 20, 'x'}); p.drain() }, 150 * time.Second, 151 * time.Second, "the server is silent"},
		{"silent", 0, (*subscribed).drain, 150 * time.Second, 151 * time.Second, "the server is silent"},
		{"fast and silent", 0, func(p *subscribed) {
			p.write(wire.AppendEvent(nil, wire.EventEstablished, "", quote(`{"socket_id":"1.2","activity_timeout":7}`), ""))
			p.drain()
		}, 37 * time.Second, 38 * time.Second, "the server is silent"},
		{"slow and silent", 0, func(p *subscribed) {
			p.write(wire.AppendEvent(nil, wire.EventEstablished, "", quote(`{"socket_id":"1.2","activity_timeout":7000}`), ""))
			p.drain()
		}, 150 * time.Second, 151 * time.Second, "the server is silent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended, began time.Time
				s, _, said := meet(t, []string{"room"}, func(n int, p *subscribed) {
					if n > 0 {
						began = time.Now()
						p.greet(eventFrame(wire.EventSubscriptionSucceeded, "room", "{}"), eventFrame("e", "room", "1"))
						p.drain()
						return
					}
					p.greet()
					p.read() // the subscription
					time.Sleep(c.lasts)
					ended = time.Now()
					c.end(p)
				})
				s.count = 1
				err := s.run(t.Context())
				synctest.Wait()
				if !strings.Contains(said.String()+fmt.Sprint(err), c.says) {
					t.Errorf("said %s%v, want %q", said, err, c.says)
				}
				if c.at < 0 {
					if err == nil || errors.Is(err, errCounted) || !began.IsZero() {
						t.Errorf("it came back: %v", err)
					}
					return
				}
				if after := began.Sub(ended); !errors.Is(err, errCounted) || after < c.at || after > c.most {
					t.Errorf("%v: it came back after %s, want %s to %s", err, after, c.at, c.most)
				}
			})
		})
	}
}

// A server that takes everyone and throws everyone out at once is not called ever faster, and one that is away not either.
func TestSubscribeBacksOff(t *testing.T) {
	for name, serve := range map[string]func(p *subscribed){
		"4200":        func(p *subscribed) { p.greet(); p.read(); p.write(closeFrame(4200, "")) },
		"error event": func(p *subscribed) { p.greet(wire.AppendError(nil, 4200, "away", "")); p.drain() },
		"error before": func(p *subscribed) {
			p.upgrade()
			p.write(wire.AppendError(nil, 4100, "full", ""))
			p.drain()
		},
		"503": func(p *subscribed) {
			http.ReadRequest(p.in)
			p.write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\naway\n"))
		},
		"hangs up":  func(*subscribed) {},
		"says none": func(p *subscribed) { p.in.ReadString('\n'); p.drain() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				calls := 0
				s, _, _ := meet(t, []string{"room"}, func(n int, p *subscribed) {
					if calls++; calls > 100 {
						cancel()
					}
					if n == 0 {
						p.greet()
						p.read()
						return
					}
					serve(p)
				})
				s.run(ctx)
				synctest.Wait() // until the last has hung up
				if ctx.Err() == nil || calls < 4 || calls > 30 {
					t.Errorf("%d calls in a minute", calls)
				}
			})
		})
	}
}

// What is not there at the start is an error, not waited for.
func TestSubscribeNeedsAServer(t *testing.T) {
	for _, c := range []struct {
		name, want string
		serve      func(*subscribed)
	}{
		{"404", "the server answered 404: no such page", func(p *subscribed) {
			http.ReadRequest(p.in)
			p.write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nno "))
			p.write([]byte("such\npage\x1b\n"))
		}},
		{"502", "the server answered 502: ", func(p *subscribed) {
			http.ReadRequest(p.in)
			p.write([]byte("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))
		}},
		{"no HTTP", "cannot reach the server at there:80: it does not answer as an HTTP server: malformed", func(p *subscribed) {
			http.ReadRequest(p.in)
			p.write([]byte("220 smtp\r\n\r\n"))
		}},
		{"hangs up", "the server at there:80", func(*subscribed) {}},
		{"never answers", "cannot reach the server at there:80: it does not answer as an HTTP server: the server is silent", (*subscribed).drain},
		{"hangs up later", "it does not answer as an HTTP server: the server closed it", func(p *subscribed) { http.ReadRequest(p.in) }},
		{"never greets", "cannot reach the server at there:80: the server is silent", func(p *subscribed) {
			p.upgrade()
			p.drain()
		}},
		{"wrong accept", "the server answered 101: invalid Sec-WebSocket-Accept header", func(p *subscribed) {
			http.ReadRequest(p.in)
			p.write(upgraded("x"))
		}},
		{"no upgrade", "the server answered 101: missing Upgrade header", func(p *subscribed) {
			r, _ := http.ReadRequest(p.in)
			p.write(bytes.Replace(upgraded(r.Header.Get("Sec-WebSocket-Key")), []byte("Upgrade: websocket"), []byte("Upgrade: smtp"), 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _, _ := meet(t, []string{"room"}, func(n int, p *subscribed) {
					if n > 0 {
						t.Error("it came back")
					}
					c.serve(p)
				})
				err := s.run(t.Context())
				synctest.Wait()
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			})
		})
	}
}

// What has come of it when -timeout is over.
func TestSubscribeTimeout(t *testing.T) {
	succeeded := func(channel string) []byte { return eventFrame(wire.EventSubscriptionSucceeded, channel, "{}") }
	answering := func(frames ...[]byte) func(int, *subscribed) {
		return func(n int, p *subscribed) {
			p.greet()
			if n == 0 {
				go p.write(frames...) // ends with the connection
			}
		}
	}
	for _, c := range []struct {
		name    string
		timeout time.Duration
		count   int
		ends    time.Duration
		says    string // "" for success
		serve   func(n int, p *subscribed)
	}{
		{"never accepts", time.Second, 0, time.Second, "not subscribed to a, b within 1s", func(int, *subscribed) {}},
		{"never greets", time.Second, 1, time.Second, "not subscribed to a, b within 1s", func(_ int, p *subscribed) { p.upgrade() }},
		{"never greets, longer", time.Minute, 0, dialTimeout, "cannot reach the server at there:80: the server is silent", func(_ int, p *subscribed) { p.upgrade() }},
		{"sticks in greeting", time.Second, 0, time.Second, "not subscribed to a, b within 1s", func(_ int, p *subscribed) {
			p.upgrade()
			p.write([]byte{0x81})
		}},
		{"never answers", time.Second, 0, time.Second, "not subscribed to a, b within 1s", answering()},
		{"answers half", time.Second, 1, time.Second, "not subscribed to b within 1s", answering(succeeded("a"))},
		{"answers", time.Second, 0, time.Second, "", answering(succeeded("a"), succeeded("b"))},
		{"answers, no event", time.Second, 2, time.Second, "1 of 2 events came within 1s", answering(succeeded("a"), succeeded("b"), eventFrame("e", "a", "1"))},
		{"answers, once", time.Minute, 0, time.Minute, "", answering(succeeded("a"), succeeded("b"), closeFrame(4200, ""))},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _, _ := meet(t, []string{"a", "b"}, func(n int, p *subscribed) {
					c.serve(n, p)
					p.drain()
				})
				s.count = c.count
				began := time.Now()
				err := s.runFor(c.timeout)
				if after := time.Since(began); after != c.ends {
					t.Errorf("it took %s, want %s", after, c.ends)
				}
				if (err == nil) != (c.says == "") || err != nil && err.Error() != c.says {
					t.Errorf("%v, want %q", err, c.says)
				}
			})
		})
	}
}

// Whatever way an event comes, it is printed; what no server may send ends the connection, for good.
func TestSubscribeReads(t *testing.T) {
	one := `{"channel":"room","event":"e","data":1}` + "\n"
	fragment := func(first byte, payload string) []byte { return append([]byte{first, byte(len(payload))}, payload...) }
	text := `{"event":"e","channel":"room","data":"1"}`
	long := strings.Repeat("é", 40_000)
	for _, c := range []struct {
		name          string
		frames        [][]byte
		printed, fail string
	}{
		{"event", [][]byte{eventFrame("e", "room", "1")}, one, ""},
		{"fragments", [][]byte{fragment(0x01, text[:5]), fragment(0x00, text[5:9]), fragment(0x80, text[9:])}, one, ""},
		{"a ping and an empty piece between fragments", [][]byte{fragment(0x01, text[:5]), controlFrame(conn.OpPing, []byte("x")), fragment(0, ""), fragment(0x80, text[5:])}, one, ""},
		{"middle length", [][]byte{eventFrame("e", "room", quoteText(long[:400]))}, `{"channel":"room","event":"e","data":"` + long[:400] + "\"}\n", ""},
		{"great length", [][]byte{eventFrame("e", "room", quoteText(long))}, `{"channel":"room","event":"e","data":"` + long + "\"}\n", ""},
		{"pong", [][]byte{controlFrame(conn.OpPong, nil), wire.AppendPlain(nil, wire.EventPong), eventFrame("e", "room", "1")}, one, ""},
		{"object", [][]byte{fragment(0x81, `{"event":"e","channel":"room","data":{"a":[ 1 ]}}`)}, `{"channel":"room","event":"e","data":{"a":[1]}}` + "\n", ""},
		{"no data", [][]byte{fragment(0x81, `{"event":"e","channel":"room"}`)}, `{"channel":"room","event":"e","data":null}` + "\n", ""},
		{"user", [][]byte{fragment(0x81, `{"event":"client-e","channel":"presence-x","data":"1","user_id":"7"}`)}, `{"channel":"presence-x","event":"client-e","data":1,"user_id":"7"}` + "\n", ""},
		{"no JSON inside", [][]byte{eventFrame("e", "room", `{"a":1} x`)}, `{"channel":"room","event":"e","data":"{\"a\":1} x"}` + "\n", ""},
		{"deep JSON inside", [][]byte{eventFrame("e", "room", strings.Repeat("[", 200)+strings.Repeat("]", 200))}, `{"channel":"room","event":"e","data":"[[…`, ""},
		{"deep JSON", [][]byte{wire.AppendEvent(nil, "e", "room", []byte(strings.Repeat("[", 101)+strings.Repeat("]", 101)), "")}, `{"channel":"room","event":"e","data":"[[…`, ""},
		{"of the server", [][]byte{eventFrame(wire.EventSubscriptionCount, "room", `{"subscription_count":1}`), eventFrame("pusher:new", "room", ""), eventFrame("e", "room", "1")}, one, ""},
		{"a complaint", [][]byte{eventFrame(wire.EventSubscriptionSucceeded, "room", "{}"), wire.AppendError(nil, 4302, "too long", ""), eventFrame("e", "room", "1")}, one, ""},
		{"refused", [][]byte{wire.AppendSubscriptionError(nil, []byte("room"), &wire.SubscriptionError{Kind: "AuthError", Text: "not\nyou", Status: 401})}, "", "cannot subscribe to room: not you"},
		{"refused, by an odd name", [][]byte{wire.AppendSubscriptionError(nil, []byte("\x1b[2Jro\nom"), &wire.SubscriptionError{Kind: "AuthError", Text: "\x1bno", Status: 401})}, "", "cannot subscribe to [2Jro om: no"},
		{"refused by an error", [][]byte{wire.AppendError(nil, 0, "Invalid signature", "")}, "", "cannot subscribe: Invalid signature"},
		{"masked", [][]byte{{0x81, 0x81, 0, 0, 0, 0, 'x'}}, "", errFrame.Error()},
		{"a reserved bit", [][]byte{{0xC1, 1, 'x'}}, "", errFrame.Error()},
		{"reserved opcodes", [][]byte{{0x83, 0}}, "", errFrame.Error()},
		{"reserved control", [][]byte{{0x8B, 0}}, "", errFrame.Error()},
		{"a ping in pieces", [][]byte{{0x09, 0}}, "", errFrame.Error()},
		{"a long ping", [][]byte{append([]byte{0x89, 126, 0, 126}, make([]byte, 126)...)}, "", errFrame.Error()},
		{"a piece of nothing", [][]byte{fragment(0x80, "x")}, "", errFrame.Error()},
		{"a message in a message", [][]byte{fragment(0x01, "x"), fragment(0x81, "x")}, "", errFrame.Error()},
		{"not UTF-8", [][]byte{fragment(0x81, "{\"event\":\"\xff\"}")}, "", errFrame.Error()},
		{"null", [][]byte{fragment(0x81, `{"event":"e","channel":"room","data":null,"user_id":null}`)}, `{"channel":"room","event":"e","data":null}` + "\n", ""},
		{"huge", [][]byte{{0x81, 127, 0, 0, 0, 0, 1, 0, 0, 1}}, "", errFrame.Error() + ": gws: message too large"},
		{"absurd", [][]byte{{0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, "", errFrame.Error()},
		{"absurd by one bit", [][]byte{{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}}, "", errFrame.Error()},
		{"absurd in a message", [][]byte{fragment(0x01, "x"), {0x80, 127, 0x80, 0, 0, 0, 0, 0, 0, 1}}, "", errFrame.Error()},
		{"no JSON", [][]byte{fragment(0x81, "\x1b[2Jhello")}, "", "the server sent what is no message of the Pusher protocol: [2Jhello"},
		{"no event", [][]byte{fragment(0x81, `{"data":"{}"}`)}, "", `the server sent what is no message of the Pusher protocol: {"data":"{}"}`},
		{"no socket id", [][]byte{eventFrame(wire.EventEstablished, "", `{"socket_id":7}`)}, "", `"" is not the socket_id of a connection`},
		{"a strange socket id", [][]byte{eventFrame(wire.EventEstablished, "", `{"socket_id":"x"}`)}, "", `"x" is not the socket_id of a connection`},
	} {
		if strconv.IntSize == 32 && strings.HasPrefix(c.name, "absurd ") {
			continue // gws takes the lower half of such a length, and what follows for frames
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, printed, _ := meet(t, []string{"room"}, func(n int, p *subscribed) {
					if n > 0 {
						t.Error("it came back")
						return
					}
					p.greet()
					p.read()
					go p.write(c.frames...) // ends with the connection, at the latest
					p.drain()
				})
				s.count = 1
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				err := s.run(ctx)
				synctest.Wait()
				want, _, cut := strings.Cut(c.printed, "…")
				if got := printed.String(); got != c.printed && !(cut && strings.HasPrefix(got, want)) {
					t.Errorf("printed %.300s\nwant %.300s", got, c.printed)
				}
				if c.fail == "" && !errors.Is(err, errCounted) || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
					t.Errorf("ended with %v, want %q", err, c.fail)
				}
			})
		})
	}
}

func quoteText(s string) string { return string(quote(s)) }

// What a client has to send: pongs, pings, the answer to a close frame, signatures.
func TestSubscribeSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		channels := []string{"room", "private-room", "presence-room", "#server-to-user-7"}
		signed := func(channel, data string) string {
			return string(testKey.Token(nil, sign.ChannelText(nil, "1.2", []byte(channel), []byte(data))))
		}
		member := `{"user_id":"ada","user_info":{}}`
		var began time.Time
		s, _, _ := meet(t, channels, func(n int, p *subscribed) {
			expect := func(opcode byte, payload string) {
				t.Helper()
				if o, got := p.read(); o != opcode || got != payload {
					t.Errorf("got  %x %s\nwant %x %s", o, got, opcode, payload)
				}
			}
			p.greet()
			began = time.Now()
			expect(conn.OpText, `{"event":"pusher:signin","data":{"auth":"`+string(testKey.Token(nil, sign.UserText(nil, "1.2", []byte(`{"id":"7"}`))))+`","user_data":"{\"id\":\"7\"}"}}`)
			expect(conn.OpText, `{"event":"pusher:subscribe","data":{"channel":"room"}}`)
			expect(conn.OpText, `{"event":"pusher:subscribe","data":{"channel":"private-room","auth":"`+signed("private-room", "")+`"}}`)
			expect(conn.OpText, `{"event":"pusher:subscribe","data":{"channel":"presence-room","auth":"`+signed("presence-room", member)+`","channel_data":`+quoteText(member)+`}}`)
			p.write(wire.AppendSigninSuccess(nil, []byte(`{"id":"7"}`)))
			expect(conn.OpText, `{"event":"pusher:subscribe","data":{"channel":"#server-to-user-7"}}`)
			p.write(controlFrame(conn.OpPing, []byte("are you there?")))
			expect(conn.OpPong, "are you there?")
			p.write(wire.AppendPlain(nil, wire.EventPing))
			expect(conn.OpText, `{"event":"pusher:pong","data":{}}`)
			for range 3 {
				expect(conn.OpText, `{"event":"pusher:ping","data":{}}`)
				p.write(wire.AppendPlain(nil, wire.EventPong))
			}
			if after := time.Since(began); after != 6*time.Minute {
				t.Errorf("three pings after %s", after)
			}
			for _, opcode := range []byte{conn.OpPing, conn.OpPong} { // neither begins a message
				time.Sleep(time.Minute)
				p.write(controlFrame(opcode, nil))
				if opcode == conn.OpPing {
					expect(conn.OpPong, "")
				}
				time.Sleep(time.Minute)
			}
			p.write(closeFrame(4009, "terminated"))
			expect(conn.OpClose, "\x0f\xa9")
		})
		err := s.run(t.Context())
		synctest.Wait()
		if err == nil || err.Error() != "the server refuses the connection: 4009 terminated" {
			t.Error(err)
		}
	})
}

// FuzzServerFrames: whatever a server sends, reading it ends, and what is printed of it is UTF-8.
func FuzzServerFrames(f *testing.F) {
	f.Add(eventFrame("e", "room", "1"))
	f.Add([]byte{0x01, 1, 'x', 0x89, 0, 0x80, 1, 'y'})
	f.Add([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0})
	f.Add([]byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 1})
	f.Add(closeFrame(4200, "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, printed, _ := meet(t, []string{"room"}, func(_ int, p *subscribed) {
			p.upgrade()
			go p.drain() // ends with the connection
			p.write(b)
		})
		if err := s.connection(t.Context()); err == nil || !utf8.Valid(printed.Bytes()) {
			t.Fatalf("%v after %q", err, printed)
		}
	})
}
