package vm

import (
	"encoding/json"
	"encoding/pem"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var recipes = flag.Bool("recipes", false, "build all image recipes and run what they are for (make test-recipes)")

// A recipe's image is no larger than this, in bytes of its file, and does what it is for. Each script prints "right" at its end; they
// run one after the other in one sandbox, in whatever order. What run runs in a sandbox of its own prints 1.
var recipeTests = []struct {
	name    string
	bytes   int64
	memory  string
	run     []string
	scripts map[string]string
}{
	{"base", 10_000_000, "128M", []string{"echo", "1"}, nil},
	{"python", 50_000_000, "256M", []string{"python3", "-c", "print(1)"}, map[string]string{
		"print": `python3 -c 'print(1)' && python -c 'import ssl, sqlite3, ctypes; assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100; print("right")'`,
		"venv":  `python3 -m venv /tmp/v && /tmp/v/bin/pip --version && /tmp/v/bin/python -c 'import sys; assert sys.prefix == "/tmp/v"; print("right")'`,
	}},
	{"node", 45_000_000, "512M", []string{"node", "-e", "console.log(1)"}, map[string]string{
		"node": `node -e 'if (process.versions.node.split(".")[0] < 20) throw 1; console.log(new Intl.NumberFormat("de").format(1234.5) === "1.234,5" ? "right" : "wrong")'`,
		"npm":  `cd /tmp && npm init -y && npm --version && npm pkg get version && echo right`,
	}},
	{"rust", 150_000_000, "1G", []string{"sh", "-c", `cd && echo 'fn main() { println!("{}", 1) }' >hello.rs && rustc hello.rs && ./hello`}, map[string]string{
		"rustc": `cd /tmp && echo 'fn main() { println!("{}", ["ri", "ght"].concat()) }' >hello.rs && rustc hello.rs && ./hello`,
		"cargo": `cd /tmp && cargo new --quiet hello-cargo && cd hello-cargo && cargo run --offline --quiet && echo '#[test] fn t() { assert_eq!(1 + 1, 2) }' >>src/main.rs && cargo test --offline --quiet && echo right`,
		"cc":    `mkdir /tmp/cc && cd /tmp/cc && printf '#include <stdio.h>\nint main(void) { puts("right"); }\n' >c.c && cc c.c -o c && ./c`,
	}},
	{"go", 100_000_000, "1G", []string{"sh", "-c", `cd && printf 'package main\nfunc main() { print("1\\n") }\n' >hello.go && go run hello.go 2>&1`}, map[string]string{
		"run":  `mkdir /tmp/m && cd /tmp/m && go mod init m && printf 'package main\nimport "fmt"\nfunc main() { fmt.Println("right") }\n' >main.go && go run .`,
		"test": `mkdir /tmp/n && cd /tmp/n && go mod init n && printf 'package n\nimport "testing"\nfunc TestN(t *testing.T) {}\n' >n_test.go && go test . && echo right`,
	}},
}

// What every recipe's image has: git, curl, certificates, and a user who is not root.
var everyRecipe = map[string]string{
	"agent": `test "$(id -u agent)" = 1000 && test "$(grep -c BEGIN /etc/ssl/certs/ca-certificates.crt)" -gt 100 && echo right`,
	"git":   `cd /tmp && git init -q r && cd r && git config user.email a@b && git config user.name a && echo x >f && git add f && git commit -qm x && git clone -q /tmp/r /tmp/c && cd /tmp/c && git log --format=%s && git submodule status && test "$(cat f)" = x && echo right`,
	"curl": `mkdir /tmp/w && echo right >/tmp/w/f && ip link set lo up && cd /tmp/w && busybox httpd -p 127.0.0.1:8080 && curl -sSf http://127.0.0.1:8080/f -o g && curl --version | grep -q https &&
		git ls-remote https://127.0.0.1:1/x 2>&1 | grep -qi 'connect' && cat g`,
}

// TestRecipes builds each recipe as a user does, and shows how large its image is.
func TestRecipes(t *testing.T) {
	if !*recipes {
		t.Skip("it downloads some 300 MB and takes minutes: make test-recipes")
	}
	h := newImageHome(t)
	t.Run("TLS", func(t *testing.T) { testCompiledCurl(t, h) })
	for _, r := range recipeTests {
		t.Run(r.name, func(t *testing.T) {
			var m struct{ Size int64 }
			began := time.Now()
			cmd := h.command("image", "build", "--json", r.name)
			cmd.Stderr = nil
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("image build %s: %v\n%s", r.name, err, out)
			}
			if err := json.Unmarshal(out, &m); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.1f MB, bound %.0f MB, built in %v", r.name, float64(m.Size)/1e6, float64(r.bytes)/1e6, time.Since(began).Round(time.Second))
			if m.Size > r.bytes {
				t.Errorf("it has %d bytes, want at most %d", m.Size, r.bytes)
			}
			began = time.Now()
			run, err := h.command(append([]string{"run", "--image", r.name, "--memory", r.memory, "--"}, r.run...)...).Output()
			if err != nil || string(run) != "1\n" {
				t.Errorf("run %q: %v\n%s", r.run, err, run)
			}
			t.Logf("%s: run %q took %v", r.name, r.run, time.Since(began).Round(time.Millisecond))
			h.ok("create", r.name, "--image", r.name, "--memory", r.memory)
			h.ok("start", r.name)
			defer h.ok("rm", "--force", r.name)
			for _, scripts := range []map[string]string{everyRecipe, r.scripts} {
				for name, script := range scripts {
					// Emulated, a compiler takes minutes: only the time of the whole test bounds it.
					began := time.Now()
					out, err := h.command("exec", r.name, "sh", "-c", script).CombinedOutput()
					if err != nil || !strings.HasSuffix(string(out), "right\n") {
						t.Errorf("%s: %v\n%s", name, err, out)
					}
					t.Logf("%s: %s took %v", r.name, name, time.Since(began).Round(time.Millisecond))
				}
			}
			if got := h.run("exec", "-u", "agent", r.name, "sh", "-c", "cd && touch mine && id -un"); got.stdout != "agent\n" {
				t.Errorf("as agent: %+v", got)
			}
		})
	}
}

// testCompiledCurl has the curl of the images, which is static, talk to a server of this host: sandboxes have no network.
func testCompiledCurl(t *testing.T, h *home) {
	if runtime.GOOS != "linux" {
		t.Skip("the images' curl does not run here")
	}
	h.ok("image", "build", "base")
	found, err := filepath.Glob(filepath.Join(hostData, "cache/image/built-*/root/usr/bin/curl"))
	if err != nil || len(found) == 0 {
		t.Fatalf("nothing was compiled: %v", err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "right") }))
	defer server.Close()
	trusted := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(trusted, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	port := server.URL[strings.LastIndexByte(server.URL, ':')+1:]
	for _, c := range []struct {
		host, ca string
		ok       bool
	}{{"example.com", trusted, true}, {"example.com", "", false}, {"example.org", trusted, false}} {
		ran := false
		for _, curl := range found {
			if exec.Command(curl, "--version").Run() != nil {
				continue // of another architecture
			}
			ran = true
			args := []string{"-sS", "--resolve", c.host + ":" + port + ":127.0.0.1", "https://" + c.host + ":" + port + "/"}
			if c.ca != "" {
				args = append(args, "--cacert", c.ca)
			}
			cmd := exec.Command(curl, args...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if (err == nil && string(out) == "right") != c.ok {
				t.Errorf("%s of %s, trusting %q: %v\n%s", curl, c.host, c.ca, err, out)
			}
		}
		if !ran {
			t.Fatal("no curl for this host's architecture was compiled")
		}
	}
}
