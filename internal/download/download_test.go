package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const limit = 512 << 20

// payload is long enough for several progress events.
func payload() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 3<<16) }

func fetchTo(t *testing.T, h http.HandlerFunc, have []byte) (string, []int64, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "f.part")
	if have != nil {
		if err := os.WriteFile(path, have, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var seen []int64
	err := fetch(t.Context(), srv.Client(), srv.URL, path, limit, time.Millisecond, func(done, _ int64) { seen = append(seen, done) })
	return path, seen, err
}

func serve(w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "f", time.Time{}, bytes.NewReader(payload()))
}

func TestDownload(t *testing.T) {
	whole := payload()
	for _, c := range []struct {
		name    string
		have    []byte
		handler func(requests *int) http.HandlerFunc
		wantReq int
	}{
		{"from nothing", nil, func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { *n++; serve(w, r) }
		}, 1},
		{"resumed", whole[:1000], func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				*n++
				if got := r.Header.Get("Range"); got != "bytes=1000-" {
					t.Errorf("Range %q", got)
				}
				serve(w, r)
			}
		}, 1},
		{"complete already", whole, func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { *n++; serve(w, r) }
		}, 1},
		{"server knows no ranges", []byte("wrong bytes"), func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { *n++; _, _ = w.Write(whole) }
		}, 1},
		{"broken off twice", nil, func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				*n++
				if *n <= 2 {
					w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
					from := 0
					if *n == 2 {
						from = 4096
						w.Header().Set("Content-Length", fmt.Sprint(len(whole)-from))
						w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(whole)-1, len(whole)))
						w.WriteHeader(http.StatusPartialContent)
					}
					_, _ = w.Write(whole[from : from+4096])
					panic(http.ErrAbortHandler)
				}
				serve(w, r)
			}
		}, 3},
		{"busy three times, and after a break again", nil, func(n *int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				switch *n++; *n {
				case 4:
					w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
					_, _ = w.Write(whole[:4096])
					panic(http.ErrAbortHandler)
				case 8:
					serve(w, r)
				default:
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}
		}, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests int
			path, seen, err := fetchTo(t, c.handler(&requests), c.have)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, whole) {
				t.Errorf("got %d bytes that differ from the %d sent", len(got), len(whole))
			}
			if requests != c.wantReq {
				t.Errorf("%d requests, want %d", requests, c.wantReq)
			}
			for i := 1; i < len(seen); i++ {
				if seen[i] < seen[i-1] {
					t.Errorf("progress went back: %v", seen)
				}
			}
		})
	}
}

func TestDownloadRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		have       []byte
		handler    http.HandlerFunc
	}{
		{"404", "no such file", nil, http.NotFound},
		{"500", "500", nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"truncated before anything came", "broke off", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}},
		{"announced too large", "at most", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(int64(limit)+1))
		}},
		{"another range than asked for", "asked for the bytes from 4 on", []byte("abcd"), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}},
		{"malformed range", "Content-Range", []byte("abcd"), func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := fetchTo(t, c.handler, c.have)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// A server that stays away is given up, and one that refuses is not asked again.
func TestAttempts(t *testing.T) {
	for status, want := range map[int]int{http.StatusBadGateway: attempts, http.StatusForbidden: 1, http.StatusNotFound: 1} {
		asked := 0
		_, _, err := fetchTo(t, func(w http.ResponseWriter, _ *http.Request) { asked++; w.WriteHeader(status) }, nil)
		if err == nil || asked != want {
			t.Errorf("%d: asked %d times, want %d; %v", status, asked, want, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user went home")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		cancel(reason)
	}))
	defer srv.Close()
	if err := fetch(ctx, srv.Client(), srv.URL, filepath.Join(t.TempDir(), "f"), limit, time.Hour, func(int64, int64) {}); !errors.Is(err, reason) {
		t.Errorf("called off during a pause: %v", err)
	}
}

func TestDownloadCancelledKeepsWhatCame(t *testing.T) {
	reason := errors.New("the user went home")
	ctx, cancel := context.WithCancelCause(context.Background())
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(4<<20))
		_, _ = w.Write(make([]byte, 2<<20))
		w.(http.Flusher).Flush()
		<-release
	}))
	defer srv.Close()
	defer close(release)
	path := filepath.Join(t.TempDir(), "f.part")
	err := File(ctx, srv.Client(), srv.URL, path, limit, func(done, _ int64) {
		if done >= reportEvery {
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) {
		t.Fatalf("error %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() < reportEvery {
		t.Fatalf("the partial file was not kept: %v", err)
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 5-9/*", "bytes 9-5/10", "bytes -1-5/6", "items 0-1/2", "bytes 0-9223372036854775807/9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, size, err := parseContentRange(s)
		if err == nil && (from < 0 || size < 0 || size > 0 && from >= size) {
			t.Errorf("%q gave %d of %d", s, from, size)
		}
	})
}
