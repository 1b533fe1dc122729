package app

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/engine/auto"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker"
	"github.com/agentkernel/agentkernel/internal/hostcheck"
	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/kernel"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/vmmrelease"
)

// Check is one thing that was looked at on this host.
type Check = hostcheck.Check

// Doctor looks at all that a sandbox needs of this host, without starting anything.
func Doctor(ctx context.Context, dirs paths.Dirs) ([]Check, error) {
	host, err := hostvirt.Inspect()
	if err != nil {
		return nil, err
	}
	checks := []Check{{Name: "host", OK: true, Detail: fmt.Sprintf("%d CPUs, %d MiB, %s, kernel %s", host.CPUs, host.MemoryMiB, host.CPUModel, host.Kernel)}}
	kvm, err := hostvirt.ProbeKVM(ctx, kvmCache(dirs))
	if err != nil {
		return nil, err
	}
	detail := kvm.Reason
	if kvm.NsPerInstruction > 0 {
		detail += fmt.Sprintf(" (measured: %.2g ns an instruction)", kvm.NsPerInstruction)
	}
	facts := hostcheck.Gather("/")
	if runtime.GOOS == "linux" {
		checks = append(checks, facts.CPU(runtime.GOARCH), facts.KVM())
	}
	checks = append(checks, Check{Name: "hardware virtualization", OK: kvm.Good, Detail: detail, Fix: kvm.Hint})
	user, err := config.LoadUser(dirs.Config)
	checks = append(checks, configCheck(dirs.Config, user, err))
	engine := newEngine(dirs, user, slog.New(slog.DiscardHandler))
	checks = append(checks, engineChecks(engine.Choose(ctx, "", hostArch()))...)
	checks = append(checks, firecrackerChecks(ctx, dirs)...)
	if runtime.GOOS == "linux" {
		checks = append(checks, facts.Cgroups(), facts.Namespaces())
		checks = append(checks, facts.Memory()...)
	}
	checks = append(checks, kernelCheck(dirs), imageCheck(dirs))
	mke2fs := Check{Name: "mke2fs", OK: true, Detail: "makes the disks of sandboxes", Fix: "apt-get install e2fsprogs", Needed: true}
	if findTool("mke2fs") == "" {
		mke2fs.OK, mke2fs.Detail = false, "not found; it makes the disks of sandboxes"
	}
	checks = append(checks, mke2fs)
	daemon := Check{Name: "daemon", OK: true, Detail: "none runs; the first command starts one"}
	if c, v, err := Running(ctx, dirs); err == nil {
		c.Close()
		daemon.Detail = fmt.Sprintf("pid %d, version %s", v.Pid, v.Version)
	}
	return append(checks, daemon), nil
}

// engineChecks has one check an engine and one for the choice. One engine is enough.
func engineChecks(choices []auto.Choice) []Check {
	var checks []Check
	chosen := Check{Name: "engine", Needed: true, Detail: "none can be used", Fix: "install one of them"}
	for _, v := range choices {
		c := v.Capabilities
		check := Check{Name: "engine " + v.Engine.Name(), OK: c.Usable, Fix: c.Hint, Detail: c.Reason}
		if c.Usable {
			check.Detail = fmt.Sprintf("%s %s, accelerator %s: %s", c.Binary, c.Version, c.Accelerator, c.Reason)
		}
		checks = append(checks, check)
		if v.Chosen {
			chosen.OK, chosen.Detail, chosen.Fix = true, fmt.Sprintf("%s is used: %s", v.Engine.Name(), v.Why), ""
			checks = append(checks, Check{Name: "confinement", OK: true, Detail: strings.Join(c.Confinement, "; "), Fix: c.Hint})
		}
	}
	return append(checks, chosen)
}

func configCheck(path string, user config.User, err error) Check {
	c := Check{Name: "configuration", OK: err == nil, Needed: true, Detail: path + ": engine " + user.Engine}
	if user.RequireJailer {
		c.Detail += ", the jailer is required"
	}
	if err != nil {
		c.Detail, c.Fix = err.Error(), "correct the file, or take it away"
	}
	return c
}

// firecrackerChecks look at the programs of Firecracker, whether they are used or not.
func firecrackerChecks(ctx context.Context, dirs paths.Dirs) []Check {
	var checks []Check
	for _, p := range firecracker.Programs(ctx, dirs.Firecracker()) {
		c := Check{Name: p.Name, OK: true, Detail: p.Path + ", version " + p.Version.String()}
		if p.Err != nil {
			checks = append(checks, Check{Name: p.Name, Detail: p.Err.Error(), Fix: "agentkernel setup"})
			continue
		}
		for _, a := range firecracker.Advisories(p.Version) {
			if a.Program != p.Name {
				continue
			}
			c.Detail += fmt.Sprintf("; %s: it %s (fixed in %s)", a.ID, a.Summary, a.Fixed)
			if a.Concerns {
				c.OK, c.Fix = false, "agentkernel setup installs "+vmmrelease.Version
			}
		}
		checks = append(checks, c)
	}
	return checks
}

func kernelCheck(dirs paths.Dirs) Check {
	check := Check{Name: "guest kernel", Needed: true, Fix: "agentkernel kernel build --source /usr/src/linux-source-6.1.tar.xz (apt-get install linux-source-6.1), or agentkernel kernel build"}
	store, err := kernel.OpenStore(dirs.Kernels())
	if err == nil {
		var k kernel.Kernel
		if k, err = store.Latest(kernel.Arch(hostArch())); err == nil {
			check.OK, check.Detail = true, k.VmlinuxPath()
		}
	}
	if err != nil {
		check.Detail = err.Error()
	}
	return check
}

func imageCheck(dirs paths.Dirs) Check {
	check := Check{Name: "image base", Needed: true, Fix: "agentkernel image build base (apt-get install busybox-static)"}
	m, err := image.Open(dirs.Images()).Get(sandbox.DefaultImage, hostArch())
	if err != nil {
		check.Detail = err.Error()
		return check
	}
	check.OK, check.Detail = true, m.Digest
	return check
}

// findTool looks for a program in PATH and in the directories of system programs, which are not in a user's PATH on Debian.
func findTool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}
