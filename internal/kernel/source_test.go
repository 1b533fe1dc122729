package kernel

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("this test needs %s", n)
		}
	}
}

// mirror is a kernel.org with one release that a key of its own has signed.
type mirror struct {
	*httptest.Server
	key      *openpgp.Entity
	files    map[string][]byte
	requests []string
}

const release = "6.1.70"

func newMirror(t *testing.T) *mirror {
	t.Helper()
	needTools(t, "xz")
	key, err := openpgp.NewEntity("Releaser", "", "releaser@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{key: key, files: map[string][]byte{}}
	plain := bytes.Repeat([]byte("a kernel\n"), 1000)
	xz := exec.Command("xz", "-c")
	xz.Stdin = bytes.NewReader(plain)
	if m.files["/v6.x/linux-"+release+".tar.xz"], err = xz.Output(); err != nil {
		t.Fatal(err)
	}
	m.files["/v6.x/linux-"+release+".tar.sign"] = sign(t, key, plain)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests = append(m.requests, r.URL.Path)
		body, ok := m.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(m.Close)
	return m
}

func sign(t *testing.T, key *openpgp.Entity, text []byte) []byte {
	t.Helper()
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, key, bytes.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	return sig.Bytes()
}

func (m *mirror) source(t *testing.T, keys ...*openpgp.Entity) *releaseSource {
	t.Helper()
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &releaseSource{store: store, client: m.Client(), mirror: m.URL, keys: openpgp.EntityList(keys), report: func(Event) {}}
}

func TestReleaseIsVerifiedOnceAndKept(t *testing.T) {
	m := newMirror(t)
	s := m.source(t, m.key)
	first, err := s.get(context.Background(), release, "")
	if err != nil {
		t.Fatal(err)
	}
	if first.Version != release || first.Origin != originRelease || !sha256Form().MatchString(first.SHA256) {
		t.Errorf("got %+v", first)
	}
	asked := len(m.requests)
	again, err := s.get(context.Background(), release, first.SHA256)
	if err != nil || again != first {
		t.Errorf("second time %+v, %v", again, err)
	}
	if len(m.requests) != asked {
		t.Errorf("the second time asked the mirror for %v", m.requests[asked:])
	}
	if _, err := s.get(context.Background(), release, strings.Repeat("0", 64)); err == nil {
		t.Error("a kept tarball of another digest was accepted")
	}
}

func TestReleaseResumes(t *testing.T) {
	m := newMirror(t)
	s := m.source(t, m.key)
	body := m.files["/v6.x/linux-"+release+".tar.xz"]
	if err := os.WriteFile(s.tarballPath(release)+".part", body[:len(body)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get(context.Background(), release, ""); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseRefuses(t *testing.T) {
	other, err := openpgp.NewEntity("Somebody", "", "somebody@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	const tarball, signature = "/v6.x/linux-" + release + ".tar.xz", "/v6.x/linux-" + release + ".tar.sign"
	for _, c := range []struct {
		name, sha256, want string
		change             func(t *testing.T, m *mirror)
	}{
		{name: "signed by somebody else", want: "not a kernel developer's", change: func(t *testing.T, m *mirror) {
			m.files[signature] = sign(t, other, bytes.Repeat([]byte("a kernel\n"), 1000))
		}},
		{name: "changed after signing", want: "not a kernel developer's", change: func(t *testing.T, m *mirror) {
			m.files[signature] = sign(t, m.key, []byte("another text"))
		}},
		{name: "no signature in the file", want: "signature is none", change: func(_ *testing.T, m *mirror) {
			m.files[signature] = []byte("<html>maintenance</html>")
		}},
		{name: "no such release", want: "404", change: func(_ *testing.T, m *mirror) { delete(m.files, signature) }},
		{name: "signature without a tarball", want: "no such file", change: func(_ *testing.T, m *mirror) { delete(m.files, tarball) }},
		{name: "truncated tarball", want: "verify", change: func(_ *testing.T, m *mirror) {
			m.files[tarball] = m.files[tarball][:len(m.files[tarball])-20]
		}},
		{name: "not xz", want: "verify", change: func(_ *testing.T, m *mirror) { m.files[tarball] = []byte("hello") }},
		{name: "endless signature", want: "larger than", change: func(_ *testing.T, m *mirror) {
			m.files[signature] = make([]byte, signatureMaxBytes+1)
		}},
		{name: "wrong digest", want: "instead of", sha256: strings.Repeat("a", 64), change: func(*testing.T, *mirror) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMirror(t)
			c.change(t, m)
			s := m.source(t, m.key)
			_, err := s.get(context.Background(), release, c.sha256)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			left, err := filepath.Glob(s.tarballPath(release) + "*")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range left {
				if info, err := os.Stat(f); err == nil && info.Size() > 0 {
					t.Errorf("left %s behind", f)
				}
			}
		})
	}
}

// The embedded keys are those that kernel.org names, and nobody else's.
func TestReleaseKeys(t *testing.T) {
	keys, err := releaseKeys(embedded(t))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, k := range keys {
		for name := range k.Identities {
			names[name] = true
		}
		if _, ok := k.SigningKey(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)); !ok {
			t.Errorf("key %X cannot sign", k.PrimaryKey.Fingerprint)
		}
	}
	for _, want := range []string{"Greg Kroah-Hartman <gregkh@kernel.org>", "Sasha Levin <sashal@kernel.org>"} {
		if !names[want] {
			t.Errorf("no key of %s among %v", want, names)
		}
	}
}

func TestReleaseKeysRefusesAnotherKeyInTheFile(t *testing.T) {
	tree := t.TempDir()
	if err := os.CopyFS(tree, embedded(t)); err != nil {
		t.Fatal(err)
	}
	signers := releaseSigners()
	text, err := os.ReadFile(filepath.Join(tree, "keys", signers[1]+".asc"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "keys", signers[0]+".asc"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := releaseKeys(os.DirFS(tree)); err == nil || !strings.Contains(err.Error(), signers[1]) {
		t.Fatalf("error %v names not the key that was found", err)
	}
}
