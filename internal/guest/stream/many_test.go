package stream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/files"
	"github.com/agentkernel/agentkernel/internal/guest/forward"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
)

func filesRequest(r *guestv1.FilesRequest) *guestv1.StreamRequest {
	return &guestv1.StreamRequest{Op: &guestv1.StreamRequest_Files{Files: r}}
}

// TestBadHost has a host open 500 streams at once, of which some are never asked for anything, some are asked for what cannot
// be, some are not read, and some end within a request. The agent serves others meanwhile, and has nothing left when it is gone.
func TestBadHost(t *testing.T) {
	dial := guest(t, stream.Handlers{"files": files.Service{}.Handle, "forward": forward.Handle})
	dir := t.TempDir()
	big, err := os.Create(dir + "/big")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := big.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	_ = big.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before := held(t)
	refused := []*guestv1.StreamRequest{
		{}, filesRequest(&guestv1.FilesRequest{}), forwardTo("udp", "127.0.0.1:1"), forwardTo("tcp", "localhost:1"), forwardTo("unix", "relative"),
		filesRequest(&guestv1.FilesRequest{Op: &guestv1.FilesRequest_Read{Read: &guestv1.ReadFile{Path: []byte("/a\x00b")}}}),
		filesRequest(&guestv1.FilesRequest{Op: &guestv1.FilesRequest_Pack{Pack: &guestv1.Pack{Path: []byte("relative")}}}),
		filesRequest(&guestv1.FilesRequest{Op: &guestv1.FilesRequest_Read{Read: &guestv1.ReadFile{Path: []byte(dir)}}}),
	}
	unread := filesRequest(&guestv1.FilesRequest{Op: &guestv1.FilesRequest_Pack{Pack: &guestv1.Pack{Path: []byte(dir)}}})
	const streams = 500
	conns := make([]net.Conn, streams)
	var opened sync.WaitGroup
	for i := range conns {
		conns[i] = dial()
		opened.Go(func() {
			switch i % 4 {
			case 0: // silence
			case 1:
				_, _ = conns[i].Write([]byte{200, 1, 0x0a}) // and no more
			case 2:
				_, err := guestrpc.OpenStream(ctx, conns[i], refused[i/4%len(refused)])
				if want := (*guestrpc.StreamError)(nil); !errors.As(err, &want) {
					t.Errorf("request %d: %v", i/4%len(refused), err)
				}
			case 3:
				if _, err := guestrpc.OpenStream(ctx, conns[i], unread); err != nil {
					t.Error(err)
				}
			}
		})
	}
	opened.Wait()
	f := guestrpc.NewFiles(func(ctx context.Context, r *guestv1.StreamRequest) (guestrpc.Conn, error) {
		c, err := guestrpc.OpenStream(ctx, dial(), r)
		if err != nil {
			return nil, err
		}
		return c.Conn, nil
	}, func(err error) error { return err }, nil)
	d, err := f.Read(ctx, dir+"/big", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, d); n != 4<<20 || err != nil {
		t.Error(n, err)
	}
	_ = d.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	for after := held(t); after > before; after = held(t) { // they end by themselves, and nothing tells when
		if ctx.Err() != nil {
			t.Fatalf("%d goroutines and descriptors, %d before", after, before)
		}
		runtime.Gosched()
	}
}

// held counts goroutines and descriptors.
func held(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine() + len(fds)
}
