package exec

import (
	"bytes"
	"fmt"
	"testing"
)

// drain reads a log from a position to its end.
func drain(l *outputLog, at uint64) (text string, gap uint64) {
	buf := make([]byte, 7)
	for {
		n, stderr, missing, _ := l.read(at, buf)
		gap += missing
		at += missing + uint64(n)
		if n == 0 {
			return text, gap
		}
		if stderr {
			text += "!"
		}
		text += string(buf[:n])
	}
}

func TestOutputLog(t *testing.T) {
	l := new(outputLog)
	n, _, _, more := l.read(0, make([]byte, 1))
	if n != 0 || more == nil {
		t.Fatal(n, more)
	}
	l.add(false, []byte("out"))
	select {
	case <-more:
	default:
		t.Error("a reader that waits is not told")
	}
	l.add(false, []byte("put"))
	l.add(true, []byte("err"))
	if text, gap := drain(l, 0); text != "output!err" || gap != 0 {
		t.Errorf("%q, %d", text, gap)
	}
	if text, gap := drain(l, 4); text != "ut!err" || gap != 0 {
		t.Errorf("%q, %d", text, gap)
	}
	l.finish()
	if n, _, _, more := l.read(9, make([]byte, 1)); n != 0 || more != nil {
		t.Error("the log does not end")
	}
}

// TestOutputLogIsBounded writes more than is kept, in large pieces and in the smallest.
func TestOutputLogIsBounded(t *testing.T) {
	for _, size := range []int{1, 100, pieceSize} {
		l := new(outputLog)
		total := uint64(0)
		for i := 0; total < 4*logSize; i++ {
			l.add(size == 1 && i%2 == 0, bytes.Repeat([]byte{byte(i)}, size))
			total += uint64(size)
		}
		from, to := l.bounds()
		if to != total || to-from > logSize || len(l.pieces) > logPieces || size > 1 && to-from < logSize-2*pieceSize {
			t.Errorf("pieces of %d: %d to %d of %d, in %d", size, from, to, total, len(l.pieces))
		}
		if _, _, gap, _ := l.read(0, make([]byte, 1)); gap != from {
			t.Errorf("pieces of %d: a gap of %d, not of %d", size, gap, from)
		}
	}
}

func TestList(t *testing.T) {
	if got := cut([]string{"é" + fmt.Sprintf("%0254d", 0), "x"}); len(got) != 1 || len(got[0]) != 256 {
		t.Errorf("%q", got)
	}
	if got := cut([]string{fmt.Sprintf("%0255d", 0) + "é"}); len(got) != 1 || len(got[0]) != 255 {
		t.Errorf("a character cut in two: %q", got)
	}
}
