package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"
)

// fakeMakefile stands in for the kernel's: it has the targets that a build of
// an aarch64 kernel asks for. Its olddefconfig drops CONFIG_DROPPED, as Kconfig
// drops a symbol whose dependencies are off.
const fakeMakefile = `VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 99
EXTRAVERSION =

tinyconfig:
	@printf '# CONFIG_LATE is not set\nCONFIG_CPUS=1\n' > .config
olddefconfig:
	@grep -v CONFIG_DROPPED .config | tac | awk '{n=$$1=="#"?$$2:$$1; sub(/=.*/,"",n); if(!s[n]++) print}' > new && mv new .config
include/config/kernel.release:
	@mkdir -p include/config && echo 6.1.99-agentkernel > $@
Image:
	@echo "one more build" >> COUNT
	@echo "  CC      init/main.o"
	@echo "  AS      head.o"
	@grep -q patched file.c || { echo "file.c was not patched"; exit 1; }
	@BEFORE_IMAGE
	@mkdir -p arch/arm64/boot && { head -c 56 /dev/zero; printf 'ARMd%s' "$$KBUILD_BUILD_USER$$LEAK"; } > arch/arm64/boot/Image
`

type fakeTree struct {
	t       *testing.T
	store   *Store
	source  string
	count   string // gets a line for each build
	recipes fstest.MapFS
}

func newFakeTree(t *testing.T, beforeImage string) *fakeTree {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("kernels are built on Linux")
	}
	needTools(t, "make", "tar", "patch", "awk", "tac")
	f := &fakeTree{t: t, store: newStore(t), count: filepath.Join(t.TempDir(), "count")}
	dir := filepath.Join(t.TempDir(), "linux-source-6.1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	makefile := strings.NewReplacer("COUNT", f.count, "BEFORE_IMAGE", beforeImage).Replace(fakeMakefile)
	for name, text := range map[string]string{
		"Makefile": makefile,
		"file.c":   "original\n",
		"Kconfig":  "config LATE\nconfig CPUS\nconfig DROPPED\nconfig FIXED\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f.source = filepath.Join(t.TempDir(), "linux-source-6.1.tar.gz")
	if out, err := exec.Command("tar", "-C", filepath.Dir(dir), "-czf", f.source, filepath.Base(dir)).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	f.recipes = fstest.MapFS{
		"common.config":       {Data: []byte("CONFIG_LATE=y\nCONFIG_RENAMED?=y\n")},
		"aarch64.config":      {Data: []byte("CONFIG_CPUS=32\n")},
		"patches/6.1/1.patch": {Data: []byte("--- a/file.c\n+++ b/file.c\n@@ -1 +1 @@\n-original\n+patched\n")},
	}
	return f
}

func (f *fakeTree) build(ctx context.Context, events func(Event)) (Kernel, error) {
	rep := &reporter{fn: events}
	b := &builder{store: f.store, tree: f.recipes, report: rep.report,
		release: &releaseSource{store: f.store, report: rep.report},
		tools:   func(context.Context, Arch) (toolchain, error) { return toolchain{Compiler: "gcc (fake) 1"}, nil }}
	return b.build(ctx, Request{Arch: AArch64, Source: f.source})
}

func (f *fakeTree) builds() int {
	text, err := os.ReadFile(f.count)
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

// leftovers are the store's entries that are neither a kernel nor its own
// directories.
func (f *fakeTree) leftovers() []string {
	entries, err := os.ReadDir(f.store.Root())
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != sourcesDir && e.Name() != locksDir && !keyForm().MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestBuildOnceThenFromTheStore(t *testing.T) {
	t.Setenv("LEAK", "from the caller's environment")
	t.Setenv("MAKEFLAGS", "--no-such-flag-of-an-outer-make")
	f := newFakeTree(t, "true")
	var phases []Phase
	var last Event
	k, err := f.build(context.Background(), func(e Event) {
		if len(phases) == 0 || phases[len(phases)-1] != e.Phase {
			phases = append(phases, e.Phase)
		}
		if e.Phase == PhaseCompile {
			last = e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Phase{PhaseVerify, PhaseUnpack, PhaseConfigure, PhaseCompile, PhaseStore, PhaseDone}
	if fmt.Sprint(phases) != fmt.Sprint(want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
	if last.Done != 2 || last.Total != AArch64.expectedObjects() || k.Objects != 2 {
		t.Errorf("counted %+v, recorded %d objects", last, k.Objects)
	}
	if k.Version != "6.1.99" || k.Release() != "6.1.99-agentkernel" || k.Vmlinux.Name != "vmlinux-6.1.99-agentkernel" || k.LAPICTimerKHz {
		t.Errorf("kernel %+v", k)
	}
	image, err := os.ReadFile(k.VmlinuxPath())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(image[56:]); got != "ARMdagentkernel" {
		t.Errorf("the image ends in %q: the environment is not the build's own", got)
	}
	if f.leftovers() != nil {
		t.Errorf("left %v behind", f.leftovers())
	}

	again, err := f.build(context.Background(), nil)
	if err != nil || again.Key != k.Key || f.builds() != 1 {
		t.Errorf("the second time: key %s, %d builds, %v", again.Key, f.builds(), err)
	}
	// Another fragment is another kernel, beside the first.
	f.recipes["aarch64.config"] = &fstest.MapFile{Data: []byte("CONFIG_CPUS=16\n")}
	other, err := f.build(context.Background(), nil)
	if err != nil || other.Key == k.Key || f.builds() != 2 {
		t.Errorf("after a change: key %s, %d builds, %v", other.Key, f.builds(), err)
	}
	if _, err := f.store.Open(k.Key); err != nil {
		t.Errorf("the first kernel is gone: %v", err)
	}
}

func TestBuildReplacesADamagedKernel(t *testing.T) {
	f := newFakeTree(t, "true")
	k, err := f.build(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(k.VmlinuxPath(), 1); err != nil {
		t.Fatal(err)
	}
	if again, err := f.build(context.Background(), nil); err != nil || again.Vmlinux != k.Vmlinux || f.builds() != 2 {
		t.Errorf("%+v after %d builds, %v", again.Vmlinux, f.builds(), err)
	}
}

func TestBuildOnceForTwoAtOnce(t *testing.T) {
	f := newFakeTree(t, "true")
	var wg sync.WaitGroup
	keys, errs := make([]string, 4), make([]error, 4)
	for i := range keys {
		wg.Go(func() {
			k, err := f.build(context.Background(), nil)
			keys[i], errs[i] = k.Key, err
		})
	}
	wg.Wait()
	for i := range keys {
		if errs[i] != nil || keys[i] != keys[0] {
			t.Errorf("%d: key %s, %v", i, keys[i], errs[i])
		}
	}
	if f.builds() != 1 {
		t.Errorf("%d builds", f.builds())
	}
}

func TestBuildFailures(t *testing.T) {
	for _, c := range []struct {
		name, before string
		change       func(f *fakeTree)
		want         []string
	}{
		{name: "dropped symbol", want: []string{"CONFIG_DROPPED", "wanted y, got n", "common.config:1"}, change: func(f *fakeTree) {
			f.recipes["common.config"] = &fstest.MapFile{Data: []byte("CONFIG_DROPPED=y\n")}
		}},
		{name: "patch that does not apply", want: []string{"patches/6.1/2.patch", "6.1.99"}, change: func(f *fakeTree) {
			f.recipes["patches/6.1/2.patch"] = &fstest.MapFile{Data: []byte("--- a/file.c\n+++ b/file.c\n@@ -1 +1 @@\n-nothing like it\n+x\n")}
		}},
		{name: "compilation", before: "echo 'file.c:3: error: no such thing' >&2; exit 2", want: []string{"file.c:3: error: no such thing", "the whole log is"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.before == "" {
				c.before = "true"
			}
			f := newFakeTree(t, c.before)
			if c.change != nil {
				c.change(f)
			}
			_, err := f.build(context.Background(), nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
			left := f.leftovers()
			if len(left) != 1 || !strings.HasPrefix(left[0], "build-") || !strings.HasSuffix(left[0], ".log") {
				t.Errorf("left %v behind instead of a log", left)
			}
			if kernels, err := f.store.List(); err != nil || len(kernels) != 0 {
				t.Errorf("kernels %v, %v", kernels, err)
			}
		})
	}
}

func TestBuildCancelledLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	// The compiler hangs, and so does a child of it.
	f := newFakeTree(t, "sleep 1000 & echo '  CC      hanging.o'; wait")
	reason := errors.New("the user went home")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	_, err := f.build(ctx, func(e Event) {
		if e.Detail == "hanging.o" {
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) {
		t.Fatalf("error %v", err)
	}
	if f.leftovers() != nil {
		t.Errorf("left %v behind", f.leftovers())
	}
}

func TestRequestIsChecked(t *testing.T) {
	s := newStore(t)
	for name, req := range map[string]Request{
		"version": {Version: "5.10.1"},
		"arch":    {Arch: "riscv64"},
		"both":    {Version: "6.1.70", Source: "x.tar.xz"},
		"digest":  {SHA256: "abc"},
		"jobs":    {Jobs: -1},
	} {
		b := &builder{store: s, report: func(Event) {}, release: &releaseSource{},
			tools: func(context.Context, Arch) (toolchain, error) {
				t.Errorf("%s: the host was asked for tools", name)
				return toolchain{}, errors.New("no")
			}}
		if _, err := b.build(context.Background(), req); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
