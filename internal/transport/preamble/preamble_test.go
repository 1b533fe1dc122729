package preamble

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseToken(t *testing.T) {
	got, err := ParseToken("000102030405060708090a0b0c0d0e0f")
	if err != nil || got[1] != 1 || got[15] != 15 {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("g", 32)} {
		if _, err := ParseToken(s); err == nil {
			t.Errorf("%q is taken for a token", s)
		}
	}
}

// FuzzFinder compares Finder, which sees a stream in pieces, with bytes.Index on the whole of it.
func FuzzFinder(f *testing.F) {
	f.Add([]byte("xxabcdabceyyabce"), []byte("abce"), uint8(1))
	f.Add([]byte("aaaaaaab"), []byte("aab"), uint8(2))
	f.Add([]byte("ab"), []byte("a"), uint8(0))
	f.Add([]byte("0123456789012345678901234567890123456789"), []byte("890123456789012"), uint8(3))
	f.Fuzz(func(t *testing.T, stream, needle []byte, cut uint8) {
		if len(needle) == 0 {
			return
		}
		finder := NewFinder(needle)
		var got []int // offsets behind each find, in the whole stream
		seed := uint32(cut)
		for rest, at := stream, 0; len(rest) > 0; {
			seed = seed*1664525 + 1013904223
			piece := rest[:1+int(seed>>16)%min(len(rest), 1+int(cut))]
			if i := finder.Find(piece); i >= 0 {
				piece = piece[:i]
				got = append(got, at+i)
			}
			rest, at = rest[len(piece):], at+len(piece)
		}
		var want []int
		for at := 0; ; {
			i := bytes.Index(stream[at:], needle)
			if i < 0 {
				break
			}
			at += i + len(needle)
			want = append(want, at)
		}
		if len(got) != len(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("found %v, want %v", got, want)
			}
		}
	})
}
