package events

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func names(r *Reader) (list []string) {
	for {
		ev, ok := r.TryNext()
		if !ok {
			return list
		}
		if ev.Type == Lost {
			ev.Sandbox = "lost"
		}
		list = append(list, ev.Sandbox)
	}
}

func TestWhereAReaderBegins(t *testing.T) {
	h := NewHub(3)
	early := h.Reader(Start{}, nil)
	defer early.Close()
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, n := range []string{"a", "b", "c", "d"} {
		h.Publish(Event{Sandbox: n, Type: State, Time: day.AddDate(0, 0, i)})
	}
	for name, tc := range map[string]struct {
		from   Start
		filter Filter
		want   []string
	}{
		"now":                  {Start{}, nil, nil},
		"after the second":     {Start{Seq: h.first + 1}, nil, []string{"c", "d"}},
		"after the last":       {Start{Seq: h.first + 3}, nil, nil},
		"after what is to be":  {Start{Seq: h.first + 99}, nil, nil},
		"before what is kept":  {Start{Seq: h.first}, nil, []string{"b", "c", "d"}},
		"of an earlier daemon": {Start{Seq: 7}, nil, []string{"lost", "lost", "b", "c", "d"}},
		"a time":               {Start{Time: day.AddDate(0, 0, 2)}, nil, []string{"c", "d"}},
		"before all":           {Start{Time: day.AddDate(-1, 0, 0)}, nil, []string{"b", "c", "d"}},
		"filtered":             {Start{Time: day}, func(e *Event) bool { return e.Sandbox == "d" }, []string{"d"}},
	} {
		r := h.Reader(tc.from, tc.filter)
		if got := names(r); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		r.Close()
	}
	if got := names(early); !slices.Equal(got, []string{"lost", "b", "c", "d"}) {
		t.Errorf("a reader from before: %q", got)
	}
}

// A reader that never reads costs nobody anything, and learns the number that it missed.
func TestSlowReader(t *testing.T) {
	h := NewHub(16)
	slow := h.Reader(Start{}, nil)
	defer slow.Close()
	var wg sync.WaitGroup
	const n = 1000
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				h.Publish(Event{Type: ExecStart})
			}
		})
	}
	fast := h.Reader(Start{Seq: h.first - 1}, nil)
	defer fast.Close()
	wg.Wait()
	for _, r := range []*Reader{slow, fast} {
		seen, last := uint64(0), uint64(0)
		for ev, ok := r.TryNext(); ok; ev, ok = r.TryNext() {
			if ev.Type == Lost {
				seen += ev.Count
			} else {
				seen++
			}
			if ev.Seq <= last {
				t.Errorf("number %d after %d", ev.Seq, last)
			}
			last = ev.Seq
		}
		if seen != n {
			t.Errorf("%d events are accounted for, of %d", seen, n)
		}
	}
}

func TestNextWaits(t *testing.T) {
	h := NewHub(4)
	r := h.Reader(Start{}, func(e *Event) bool { return e.Type == OOMKill })
	got := make(chan Event)
	go func() {
		ev, _ := r.Next(context.Background())
		got <- ev
	}()
	h.Publish(Event{Type: State})
	h.Publish(Event{Type: OOMKill, Sandbox: "a"})
	if ev := <-got; ev.Sandbox != "a" || ev.Time.IsZero() {
		t.Errorf("%+v", ev)
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := r.Next(ctx); !errors.Is(err, why) {
		t.Error(err)
	}
	r.Close()
	if len(h.readers) != 0 {
		t.Error("a closed reader is still there")
	}
}

func TestArgv(t *testing.T) {
	many := slices.Repeat([]string{"x"}, 100)
	for _, tc := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"a", ""}, []string{"a", ""}},
		{[]string{strings.Repeat("é", 600)}, []string{strings.Repeat("é", 512) + "…"}},
		{[]string{"a" + strings.Repeat("é", 600)}, []string{"a" + strings.Repeat("é", 511) + "…"}},
		{[]string{strings.Repeat("x", 1024), "y"}, []string{strings.Repeat("x", 1024), "…"}},
		{many, append(slices.Clone(many[:64]), "…")},
	} {
		if got := Argv(tc.in); !slices.Equal(got, tc.want) {
			t.Errorf("%.80q: %.80q", tc.in, got)
		}
	}
}
