package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// A kind of confinement. All have the seccomp filters of Firecracker.
type kind int

const (
	plain      kind = iota // a process as any other
	namespaces             // its own namespaces and root directory; with root's rights its own user too
	jailed                 // the same by Firecracker's jailer, and a cgroup
)

// confinement is how VMMs are confined here.
type confinement struct {
	kind   kind
	jailer binary // when jailed
	// why it is not more, and what to do about that; both may be empty.
	why, hint string
}

// trial remembers whether this host lets us make namespaces.
type trial struct {
	mu      sync.Mutex
	done    bool
	refusal string // why not; empty when it does
}

func (t *trial) result(ctx context.Context) (refusal string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		t.refusal = ""
		if err := confine.Probe(ctx); err != nil {
			t.refusal = err.Error()
		}
		t.done = ctx.Err() == nil
	}
	return t.refusal
}

const rightsHint = "run the daemon outside of a container, or give the container CAP_SYS_ADMIN, CAP_MKNOD, CAP_SETUID, CAP_SETGID and CAP_CHOWN"

// confinement decides how a Firecracker is confined: as much as is possible. A jailer that is there and cannot be used is an error, as
// whoever put it there counts on it.
func (e *Engine) confinement(ctx context.Context, bin binary) (confinement, error) {
	c, err := e.mostConfined(ctx, bin)
	if err == nil && e.requireJailer && c.kind != jailed {
		hint := "take require_jailer out of agentkernel's configuration"
		if c.hint != "" {
			hint = c.hint + "; or " + hint
		}
		err = sandbox.Errorf(sandbox.Unavailable, hint, "the configuration requires that Firecracker runs under its jailer, and it cannot: %s", c.why)
	}
	return c, err
}

func (e *Engine) mostConfined(ctx context.Context, bin binary) (confinement, error) {
	refusal := e.trial.result(ctx)
	if ctx.Err() != nil {
		return confinement{}, context.Cause(ctx)
	}
	if os.Geteuid() != 0 {
		if refusal != "" {
			return confinement{why: "this user cannot make namespaces: " + refusal, hint: confine.UserNamespaceHint()}, nil
		}
		return confinement{kind: namespaces, why: "the jailer needs root's rights", hint: "run the daemon as root"}, nil
	}
	jailer, found, err := e.binaries.jailerOf(ctx, bin)
	switch {
	case err != nil:
		return confinement{}, err
	case refusal != "":
		return confinement{why: "this root lacks rights: " + refusal, hint: rightsHint}, nil
	case !found:
		return confinement{kind: namespaces, why: fmt.Sprintf("there is no jailer beside %s or in PATH", bin.path), hint: jailerHint}, nil
	}
	return confinement{kind: jailed, jailer: jailer}, nil
}

// describe says what will confine a VMM. What does confine one is measured when it runs.
func (c confinement) describe() []string {
	list := []string{"no network device", "no inherited descriptors or environment", "seccomp filters of Firecracker, one a thread"}
	switch {
	case c.kind == jailed:
		list = append(list, "Firecracker's jailer "+c.jailer.version.String()+": a user, a root directory, namespaces and, where the host has them, cgroups of its own")
	case c.kind == namespaces && os.Geteuid() == 0:
		list = append(list, "a user, a root directory and namespaces of its own")
	case c.kind == namespaces:
		list = append(list, "a root directory and namespaces of its own")
	}
	if c.why != "" {
		less := "not more, as " + c.why
		if c.hint != "" {
			less += " (" + c.hint + ")"
		}
		list = append(list, less)
	}
	return list
}

// owner is whom a VMM runs as; zeros when that is the daemon's own user.
type owner struct{ uid, gid int }

func (c confinement) owner(sandboxID string) (owner, error) {
	if c.kind == plain || os.Geteuid() != 0 {
		return owner{}, nil
	}
	uid, gid, err := confine.Owner(sandboxID)
	return owner{uid, gid}, err
}

// handOver gives a VMM that has a user of its own what it needs: disks that are written to are its own, everything else it may
// read. The directory of the sockets it may write to, and take nothing of ours away from. That group has no other members, and the
// files are in directories that only root can enter. What it saves goes to a directory that it can write to while it saves (openSaving).
func (f runtimeFiles) handOver(to owner, plan launchPlan) error {
	if to.uid == 0 {
		return nil
	}
	err := errors.Join(os.Chown(f.sockets, -1, to.gid), os.Chmod(f.sockets, 0o770|os.ModeSticky), os.Chown(f.saving, -1, to.gid))
	if plan.config != nil {
		err = errors.Join(err, os.Chown(f.config, -1, to.gid), os.Chmod(f.config, 0o640))
	}
	for _, r := range plan.resources {
		if r.writable {
			err = errors.Join(err, os.Chown(r.path, to.uid, to.gid))
			continue
		}
		info, statErr := os.Stat(r.path)
		if statErr != nil || info.Mode()&0o004 != 0 {
			err = errors.Join(err, statErr)
			continue
		}
		err = errors.Join(err, os.Chown(r.path, -1, to.gid), os.Chmod(r.path, info.Mode().Perm()|0o040))
	}
	if err != nil {
		return fmt.Errorf("hand the microVM's files over to user %d: %w", to.uid, err)
	}
	return nil
}

// libraries are what a Firecracker that is not static sees besides.
var libraries = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"}

// cpuInfo is what Firecracker on aarch64 reads of the host.
const cpuInfo = "/sys/devices/system/cpu"

// command is what to start for a confinement.
type command struct {
	path string
	args []string
	dir  string
	attr syscall.SysProcAttr
}

// command returns how to start Firecracker with its files.
func (c confinement) command(bin binary, spec sandbox.MachineSpec, files runtimeFiles, from launchPlan, as owner) (command, error) {
	configured := from.config != nil
	if c.kind == plain {
		return command{path: bin.path, args: append([]string{program, "--id", files.marker}, arguments(configured)...), dir: files.dir}, nil
	}
	plan := confine.Plan{
		Mount: files.jail,
		Binds: []confine.Bind{
			{From: files.output, To: outputName, Writable: true}, {From: files.sockets, To: socketsName, Writable: true},
			{From: files.saving, To: savingInside, Writable: true},
		},
	}
	if configured {
		plan.Binds = append(plan.Binds, confine.Bind{From: files.config, To: configName})
	}
	for _, r := range from.resources {
		path, err := filepath.Abs(r.path)
		if err != nil {
			return command{}, fmt.Errorf("find %s: %w", r.path, err)
		}
		plan.Binds = append(plan.Binds, confine.Bind{From: path, To: r.name, Writable: r.writable})
	}
	if bin.dynamic {
		for _, dir := range libraries {
			if _, err := os.Stat(dir); err == nil {
				plan.Binds = append(plan.Binds, confine.Bind{From: dir, To: dir})
			}
		}
	}
	var err error
	if c.kind == jailed {
		err = c.jail(&plan, bin, spec, files, as, configured)
	} else {
		plan.Binds = append(plan.Binds, confine.Bind{From: bin.path, To: program})
		if runtime.GOARCH == "arm64" {
			plan.Binds = append(plan.Binds, confine.Bind{From: cpuInfo, To: cpuInfo})
		}
		plan.Pivot, plan.UID, plan.GID = true, as.uid, as.gid
		plan.Devices = []string{"kvm", "urandom", "userfaultfd"}
		plan.Args = append([]string{"/" + program, "--id", files.marker}, arguments(configured)...)
	}
	if err != nil {
		return command{}, err
	}
	args, err := plan.Arguments(files.marker)
	return command{path: confine.Self, args: args, dir: "/", attr: confine.Attributes()}, err
}

// memoryAllowance is what a VMM's cgroup has beyond the guest's memory, in bytes: for the VMM itself and the jailer's copy of it, the
// page tables of a guest that touches all its memory (1/256 at most), and for what the disks' page cache needs to work at all.
func memoryAllowance(memoryMiB int) int64 { return 96<<20 + int64(memoryMiB)<<20/64 }

// otherThreads are those of Firecracker that are not vCPUs: two, and room for those that io_uring and snapshots start.
const otherThreads = 30

// jail completes a plan for the jailer, which makes the root directory below a directory with the name of the program and the id:
// docs/jailer.md of Firecracker.
func (c confinement) jail(plan *confine.Plan, bin binary, spec sandbox.MachineSpec, files runtimeFiles, as owner, configured bool) error {
	path, err := filepath.EvalSymlinks(bin.path) // as the jailer does before it takes the name
	if err != nil {
		return fmt.Errorf("find Firecracker: %w", err)
	}
	cgroup, err := confine.CgroupArguments(confine.Limits{
		MemoryBytes: int64(spec.MemoryMiB)<<20 + memoryAllowance(spec.MemoryMiB), Processes: spec.VCPUs + otherThreads, CPUs: spec.VCPUs + 1,
	})
	if err != nil {
		return err
	}
	plan.Inside = filepath.Join(filepath.Base(path), files.marker, "root")
	plan.Args = append([]string{
		c.jailer.path, "--id", files.marker, "--exec-file", path, "--chroot-base-dir", files.jail,
		"--uid", fmt.Sprint(as.uid), "--gid", fmt.Sprint(as.gid),
	}, cgroup...)
	plan.Args = append(append(plan.Args, "--"), arguments(configured)...)
	return nil
}
