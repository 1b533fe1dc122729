package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A script says how far it is and makes files; what it says last is part of the error when it fails; and it ends with what it
// has started when nobody waits for it any more.
func TestCompile(t *testing.T) {
	var said []string
	run := func(ctx context.Context, script string) (out string, err error) {
		work := t.TempDir()
		out = filepath.Join(work, "out")
		c := compilation{script: []byte(script)}
		return out, c.compile(ctx, compiler{}, work, out, func(line string) { said = append(said, line) })
	}
	out, err := run(t.Context(), "echo step one\nmkdir -p $OUT/usr/bin\necho \"$CC $JOBS\" >$OUT/usr/bin/x\nchmod 700 $OUT/usr/bin/x\nln -s x $OUT/usr/bin/y\necho noise\necho step two")
	if err != nil || !slices.Equal(said, []string{"compiling one", "compiling two"}) {
		t.Errorf("%q, %v", said, err)
	}
	list, err := compiled{root: out}.entries([]entry{{kind: "dir", path: "/usr"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, strings.Join([]string{e.kind, e.path, e.mode.String(), e.source}, " "))
	}
	if want := []string{"dir /usr/bin -rwxr-xr-x usr/bin", "file /usr/bin/x -rwxr-xr-x usr/bin/x", "link /usr/bin/y ---------- x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := run(t.Context(), "echo all is well\necho cannot find -lx >&2\nexit 3"); err == nil || !strings.Contains(err.Error(), "cannot find -lx") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := run(ctx, "sleep 1000 & echo begun >"+pipe+"; wait")
		ended <- err
	}()
	if _, err := os.ReadFile(pipe); err != nil { // comes back when the script has written
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}
