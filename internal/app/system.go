// Package app is where the system is wired together: which engine drives microVMs, where kernels, images and disks come
// from, and how a daemon is started and served.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/engine/auto"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker"
	"github.com/agentkernel/agentkernel/internal/engine/qemu"
	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/icount"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/kernel"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/pressure"
	"github.com/agentkernel/agentkernel/internal/project"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
	"github.com/agentkernel/agentkernel/internal/store"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
)

// system is a daemon's parts.
type system struct {
	manager *manager.Manager
	engine  *auto.Engine
	info    hostvirt.Host
}

// newEngine chooses at each start, unless the sandbox or the user has: Firecracker where it is installed and KVM is good, else
// QEMU.
func newEngine(dirs paths.Dirs, user config.User, log *slog.Logger) *auto.Engine {
	return auto.New(auto.Options{Log: log, Host: hostArch(), Default: user.Engine, RequireJailer: user.RequireJailer},
		firecracker.New(firecracker.Options{Log: log, BinaryDir: dirs.Firecracker(), KVMCache: kvmCache(dirs), RequireJailer: user.RequireJailer}),
		qemu.New(qemu.Options{Log: log, CacheDir: engineCache(dirs)}),
	)
}

func engineCache(dirs paths.Dirs) string { return filepath.Join(dirs.Cache(), "qemu") }

// kvmCache is where the engines keep the verdict on KVM.
func kvmCache(dirs paths.Dirs) string { return filepath.Join(engineCache(dirs), "kvm.json") }

func hostArch() sandbox.Arch {
	if runtime.GOARCH == "arm64" {
		return sandbox.AArch64
	}
	return sandbox.X8664
}

// build wires a daemon. Nothing runs yet, and nothing of what was there before has been looked at.
func build(dirs paths.Dirs, log *slog.Logger) (*system, error) {
	info, err := hostvirt.Inspect()
	if err != nil {
		return nil, err
	}
	sandboxes, err := store.Open(dirs.Sandboxes())
	if err != nil {
		return nil, err
	}
	volumes, err := store.OpenVolumes(dirs.Volumes())
	if err != nil {
		return nil, err
	}
	snapshots, err := snapshot.Open(dirs.Snapshots())
	if err != nil {
		return nil, err
	}
	images := image.Open(dirs.Images())
	kernels, err := kernel.OpenStore(dirs.Kernels())
	if err != nil {
		return nil, err
	}
	user, err := config.LoadUser(dirs.Config)
	if err != nil {
		return nil, err
	}
	engine := newEngine(dirs, user, log)
	var templates *snapshot.Shared
	if user.Templates.MaxSizeMiB > 0 {
		if templates, err = snapshot.OpenShared(dirs.Templates()); err != nil {
			return nil, err
		}
	}
	return &system{
		info: info, engine: engine,
		manager: manager.New(manager.Deps{
			Log: log, Store: sandboxes, Volumes: volumes, Snapshots: snapshots, Engine: engine, RuntimeDir: dirs.Runtime,
			Templates: templates, TemplateBytes: int64(user.Templates.MaxSizeMiB) << 20, TemplateAge: time.Duration(user.Templates.MaxAgeDays) * 24 * time.Hour,
			ChooseEngine: engine.Chosen,
			Pool:         manager.Pool{Size: user.Pool.Size, Max: user.Pool.Max, Images: config.PoolImages(user.Pool)}, AvailableMiB: pressure.AvailableMiB, WatchMemory: pressure.Watch,
			Host: sandbox.Host{MemoryMiB: info.MemoryMiB}, HostArch: hostArch(),
			HoldImages:   images.Hold,
			ResolveImage: images.Resolve,
			OpenImage:    images.OpenDigest,
			Kernel:       func(arch sandbox.Arch) (sandbox.KernelImage, error) { return latestKernel(kernels, arch) },
			Initrd:       (&initrds{dir: filepath.Join(dirs.Cache(), "initramfs")}).path,
			CreateUpper: func(ctx context.Context, path string, sizeMiB int) error {
				return disk.CreateUpper(ctx, filepath.Join(dirs.Cache(), "disks"), path, sizeMiB, bulk.Size>>20)
			},
			CreateVolume: func(ctx context.Context, path string, sizeMiB int) error {
				return disk.Create(ctx, filepath.Join(dirs.Cache(), "disks"), path, sizeMiB)
			},
			PackProject: func(ctx context.Context, dir, path string) ([]string, error) {
				return packProject(ctx, dir, path, filepath.Join(dirs.Cache(), "projects"))
			},
			DiskUsed:      disk.AllocatedBytes,
			CopyDisk:      func(ctx context.Context, dst, src string) error { return disk.Copy(ctx, dst, src, 0o600) },
			NeedsRecovery: disk.NeedsRecovery,
			ReadCount:     icount.Read,
		}),
	}, nil
}

func latestKernel(kernels *kernel.Store, arch sandbox.Arch) (sandbox.KernelImage, error) {
	k, err := kernels.Latest(kernel.Arch(arch))
	if errors.Is(err, kernel.ErrNoKernel) {
		hint := "agentkernel kernel build --arch " + string(arch)
		return sandbox.KernelImage{}, &sandbox.Error{Kind: sandbox.Unavailable, Message: err.Error(), Hint: hint + " builds one", Err: err}
	}
	if err != nil {
		return sandbox.KernelImage{}, fmt.Errorf("find a kernel: %w", err)
	}
	return sandbox.KernelImage{Path: k.VmlinuxPath(), Version: k.Release(), LAPICTimer: k.LAPICTimerKHz}, nil
}

// packProject packs a project and words what was left out of it.
func packProject(ctx context.Context, dir, path, cache string) ([]string, error) {
	report, err := project.Pack(ctx, dir, path, project.Options{Cache: cache})
	if err != nil {
		return nil, err
	}
	return report.Warnings(), nil
}

// host is what GET /v1/host says.
func (s *system) host(ctx context.Context) apiv1.Host {
	h := apiv1.Host{MemoryMib: s.info.MemoryMiB, Cpus: s.info.CPUs, Engines: []apiv1.EngineInfo{}}
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	for _, choice := range s.engine.Choose(ctx, "", hostArch()) {
		c := choice.Capabilities
		info := apiv1.EngineInfo{
			Name: choice.Engine.Name(), Usable: c.Usable, Reason: text(c.Reason), Hint: text(c.Hint), Accelerator: text(c.Accelerator),
			Version: text(c.Version), Binary: text(c.Binary),
		}
		if c.Confinement != nil {
			info.Confinement = &c.Confinement
		}
		h.Engines = append(h.Engines, info)
	}
	return h
}
