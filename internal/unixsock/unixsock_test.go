package unixsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// echo serves one connection after the other until the listener is closed.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

func checkEcho(t *testing.T, path string) {
	t.Helper()
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

func privateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "us") // t.TempDir is long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenAndDial(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(privateDir(t), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v; want a socket with 0600", info.Mode(), err)
	}
	if l.Path() != path {
		t.Errorf("its path is %s", l.Path())
	}
	echo(t, l)
	checkEcho(t, path)
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v, want that it is in use", err)
	}
	checkEcho(t, path)
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is left: %v", err)
	}
	if _, err := Dial(t.Context(), path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want that it does not exist", err)
	}
}

// The file is never, not even for a moment, one that others may connect to.
func TestModeFromTheStart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the directory keeps others out")
	}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(privateDir(t), "s")
	conf := net.ListenConfig{Control: ownerOnly(nil)}
	l, err := conf.Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; bind made it so", info.Mode(), err)
	}
}

func TestLongPath(t *testing.T) {
	dir := privateDir(t)
	for range 5 {
		dir = filepath.Join(dir, strings.Repeat("d", 60))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	l, err := Listen(path)
	if runtime.GOOS != "linux" {
		if err == nil || !strings.Contains(err.Error(), "AGENTKERNEL_HOME") {
			t.Errorf("%v, want an error that says what to do", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	checkEcho(t, path)
	if _, err := Listen(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want that it is in use, with its path", err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("n", 120))); err == nil {
		t.Error("a name longer than a socket address was taken")
	}
}

func TestAddressAtItsLimit(t *testing.T) {
	dir := privateDir(t)
	for _, length := range []int{maxPath - 1, maxPath, maxPath + 1} {
		name := strings.Repeat("n", 10)
		path := filepath.Join(dir, strings.Repeat("d", length-len(dir)-len(name)-2), name)
		if len(path) != length {
			t.Fatalf("%d bytes instead of %d", len(path), length)
		}
		if runtime.GOOS != "linux" && length > maxPath {
			continue
		}
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := Listen(path)
		if err != nil {
			t.Errorf("%d bytes: %v", length, err)
			continue
		}
		echo(t, l)
		checkEcho(t, path)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(privateDir(t), "s")
	dead, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.UnixListener.Close(); err != nil { // as a killed process leaves it
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	checkEcho(t, path)
}

// A listener whose file was removed and made anew by another does not remove what is not its own.
func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(privateDir(t), "s")
	old, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	checkEcho(t, path)
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	dir := privateDir(t)
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, filepath.Join(dir, "none", "s")} {
		if l, err := Listen(path); err == nil {
			l.Close()
			t.Errorf("%s: it listens", path)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestNameIsNeverAbstract(t *testing.T) {
	t.Chdir(privateDir(t))
	l, err := Listen("@s")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	if _, err := os.Lstat("@s"); err != nil {
		t.Error(err)
	}
	checkEcho(t, "@s")
}

func TestDetach(t *testing.T) {
	path := filepath.Join(privateDir(t), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Detach()
	if err != nil {
		t.Fatal(err)
	}
	again, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	echo(t, again)
	checkEcho(t, path)
}

func TestPeerCred(t *testing.T) {
	path := filepath.Join(privateDir(t), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	want := Cred{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}
	if got, err := PeerCred(server); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}
