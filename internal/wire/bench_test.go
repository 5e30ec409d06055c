package wire

import "testing"

func BenchmarkParse(b *testing.B) {
	frame := []byte(`{"event":"client-typing","data":{"x":1,"y":[1,2,3],"who":"someone"},"channel":"presence-foobar"}`)
	buffer := new([]byte)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readMessage(buffer, frame); err != nil {
			b.Fatal(err)
		}
	}
}
