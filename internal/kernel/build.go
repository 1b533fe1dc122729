package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/images"
)

// workBytes is the room that a build takes while it runs: the unpacked source
// and its objects.
const workBytes = 2500 << 20

// Request says which kernel to build.
type Request struct {
	Arch Arch // default: the host's
	// Version is a release of kernel.org, default [DefaultVersion]. It must be
	// empty where Source is given, which has its own.
	Version string
	// Source is a kernel source tarball on this host, such as Debian's
	// /usr/src/linux-source-6.1.tar.xz. Nothing is downloaded then.
	Source string
	// SHA256 is what the tarball's digest must be, in hex. For a release it
	// takes the place of the developer's signature.
	SHA256 string
	// Mirror replaces [DefaultMirror]: the URL under which v6.x/ lies.
	Mirror string
	Jobs   int // of make; default: the number of CPUs
	// Progress is called for each step, never twice at once. May be nil.
	Progress func(Event)
}

// Build gives the kernel that a request describes, from the store if it is
// there, else by building it, which takes minutes and all CPUs. Two processes
// that ask for the same kernel build it once.
//
// Errors: [*MissingToolsError] if programs are not installed; an unknown
// version or architecture; a source that fails its check; symbols that the
// fragments want and the configuration lacks; a failed compilation, with the
// end of its log and the log's path. A build that fails or is cancelled
// leaves nothing else behind.
func Build(ctx context.Context, store *Store, req Request) (Kernel, error) {
	if runtime.GOOS != "linux" {
		return Kernel{}, fmt.Errorf("a kernel cannot be built on %s: build it with Docker, see images/kernel/Dockerfile.kernel-builder", runtime.GOOS)
	}
	tree, err := fs.Sub(images.Kernel, "kernel")
	if err != nil {
		return Kernel{}, fmt.Errorf("open the embedded fragments: %w", err)
	}
	keys, err := releaseKeys(tree)
	if err != nil {
		return Kernel{}, err
	}
	rep := &reporter{fn: req.Progress}
	b := &builder{
		store: store,
		tree:  tree,
		release: &releaseSource{
			store: store, client: &http.Client{}, mirror: req.Mirror, keys: keys, report: rep.report,
		},
		tools:  findToolchain,
		report: rep.report,
	}
	return b.build(ctx, req)
}

// builder is one Build with its surroundings.
type builder struct {
	store   *Store
	tree    fs.FS // laid out as images/kernel
	release *releaseSource
	tools   func(context.Context, Arch) (toolchain, error)
	report  func(Event)
}

func (req Request) withDefaults() (Request, error) {
	var err error
	if req.Arch == "" {
		req.Arch, err = HostArch()
	} else {
		req.Arch, err = ParseArch(string(req.Arch))
	}
	if err != nil {
		return req, err
	}
	if req.SHA256 != "" && !sha256Form().MatchString(strings.ToLower(req.SHA256)) {
		return req, fmt.Errorf("%q is not a SHA-256: 64 hex digits are expected", req.SHA256)
	}
	if req.Source != "" && req.Version != "" {
		return req, fmt.Errorf("choose either version %s or the source %s, whose version is its own", req.Version, req.Source)
	}
	if req.Source == "" && req.Version == "" {
		req.Version = DefaultVersion
	}
	if req.Mirror == "" {
		req.Mirror = DefaultMirror
	}
	if req.Jobs < 0 {
		return req, fmt.Errorf("%d jobs are too few: at least 1 is needed", req.Jobs)
	}
	if req.Jobs == 0 {
		req.Jobs = runtime.NumCPU()
	}
	return req, nil
}

func (b *builder) build(ctx context.Context, req Request) (Kernel, error) {
	req, err := req.withDefaults()
	if err != nil {
		return Kernel{}, err
	}
	b.release.mirror = req.Mirror
	if req.Version != "" {
		if _, err := seriesOf(req.Version); err != nil {
			return Kernel{}, err // before anything is installed or downloaded for it
		}
	}
	tc, err := b.tools(ctx, req.Arch)
	if err != nil {
		return Kernel{}, err
	}
	if req.Version != "" && req.SHA256 == "" {
		if k, ok := b.builtRelease(req, tc); ok {
			b.report(Event{Phase: PhaseDone, Detail: k.VmlinuxPath()})
			return k, nil
		}
	}
	src, err := b.source(ctx, req)
	if err != nil {
		return Kernel{}, err
	}
	series, err := seriesOf(src.Version)
	if err != nil {
		return Kernel{}, err
	}
	rec, err := loadRecipe(b.tree, req.Arch, series)
	if err != nil {
		return Kernel{}, err
	}
	key := rec.key(src.Version, src.SHA256, tc.Compiler)
	if k, err := b.store.Open(key); err == nil {
		b.report(Event{Phase: PhaseDone, Detail: k.VmlinuxPath()})
		return k, nil
	}
	unlock, err := b.store.lock(ctx, key, func() {
		b.report(Event{Phase: PhaseWait, Detail: "another process builds this kernel"})
	})
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, err := b.store.Open(key); err == nil { // built while we waited
		b.report(Event{Phase: PhaseDone, Detail: k.VmlinuxPath()})
		return k, nil
	}
	k := Kernel{
		Format: manifestFormat, Key: key, Arch: req.Arch, Version: src.Version, Origin: src.Origin,
		SourceSHA256: src.SHA256, Compiler: tc.Compiler,
	}
	if k, err = b.fresh(ctx, req, tc, rec, src, k); err != nil {
		return Kernel{}, err
	}
	b.report(Event{Phase: PhaseDone, Detail: k.VmlinuxPath()})
	return k, nil
}

// builtRelease looks for a kernel that was built from a release before, whose
// tarball, once verified, need not be there any more.
func (b *builder) builtRelease(req Request, tc toolchain) (Kernel, bool) {
	series, err := seriesOf(req.Version)
	if err != nil {
		return Kernel{}, false
	}
	rec, err := loadRecipe(b.tree, req.Arch, series)
	if err != nil {
		return Kernel{}, false // the build will say so
	}
	kernels, _ := b.store.List() // a damaged one is no answer
	for _, k := range kernels {
		if k.Origin == originRelease && k.Version == req.Version && k.Arch == req.Arch &&
			k.Key == rec.key(k.Version, k.SourceSHA256, tc.Compiler) {
			return k, true
		}
	}
	return Kernel{}, false
}

func (b *builder) source(ctx context.Context, req Request) (source, error) {
	if req.Source != "" {
		b.report(Event{Phase: PhaseVerify, Detail: req.Source})
		return localSource(ctx, req.Source, req.SHA256)
	}
	return b.release.get(ctx, req.Version, req.SHA256)
}

// fresh builds a kernel under the lock of its key.
func (b *builder) fresh(ctx context.Context, req Request, tc toolchain, rec recipe, src source, k Kernel) (_ Kernel, err error) {
	if err := b.store.sweep(); err != nil {
		return Kernel{}, err
	}
	if err := enoughRoom(b.store.root, workBytes); err != nil {
		return Kernel{}, err
	}
	work := filepath.Join(b.store.root, buildPrefix+k.Key)
	tree, out, logPath := filepath.Join(work, "src"), filepath.Join(work, "out"), filepath.Join(work, "build.log")
	kept := filepath.Join(b.store.root, "build-"+k.Key[:12]+".log")
	if err := os.RemoveAll(work); err != nil {
		return Kernel{}, fmt.Errorf("clear the build directory: %w", err)
	}
	for _, dir := range []string{tree, out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Kernel{}, fmt.Errorf("make the build directory: %w", err)
		}
	}
	log, err := os.Create(logPath)
	if err != nil {
		return Kernel{}, errors.Join(fmt.Errorf("make the build log: %w", err), os.RemoveAll(work))
	}
	defer func() {
		err = errors.Join(err, log.Close())
		if err != nil && ctx.Err() == nil {
			tail := logTail(logPath, 20)
			if moved := os.Rename(logPath, kept); moved == nil {
				err = fmt.Errorf("build kernel %s for %s: %w\n%s\nthe whole log is %s", k.Version, k.Arch, err, tail, kept)
			}
		}
		err = errors.Join(err, os.RemoveAll(work))
	}()

	started := time.Now()
	r := &runner{dir: tree, env: buildEnv(), log: log}
	if err := b.prepare(ctx, r, tc, rec, src); err != nil {
		return Kernel{}, err
	}
	if err := checkRelease(ctx, r, tc, k); err != nil {
		return Kernel{}, err
	}
	count := &objectCounter{total: b.expectedObjects(k.Arch), report: b.report}
	b.report(Event{Phase: PhaseCompile, Total: count.total})
	if err := r.make(ctx, tc, k.Arch, count.line, append([]string{"-j" + strconv.Itoa(req.Jobs)}, k.Arch.targets()...)...); err != nil {
		return Kernel{}, err
	}

	b.report(Event{Phase: PhaseStore})
	for _, p := range rec.Patches {
		k.Patches = append(k.Patches, filepath.Base(p.Name))
	}
	if err := collect(ctx, r, tc, &k, tree, out); err != nil {
		return Kernel{}, err
	}
	k.Objects = count.done
	k.BuiltAt = time.Now().UTC().Truncate(time.Second)
	k.BuildSeconds = time.Since(started).Round(time.Second).Seconds()
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return Kernel{}, fmt.Errorf("encode kernel manifest: %w", err)
	}
	if err := os.WriteFile(filepath.Join(out, manifestName), append(text, '\n'), 0o644); err != nil {
		return Kernel{}, fmt.Errorf("write kernel manifest: %w", err)
	}
	if err := b.store.commit(out, k.Key); err != nil {
		return Kernel{}, err
	}
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, fmt.Errorf("remove the log of an earlier failure: %w", err)
	}
	return b.store.Open(k.Key)
}

// expectedObjects is what the last build of the architecture compiled.
func (b *builder) expectedObjects(arch Arch) int64 {
	if k, err := b.store.Latest(arch); err == nil && k.Objects > 0 {
		return k.Objects
	}
	return arch.expectedObjects()
}
