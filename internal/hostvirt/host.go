package hostvirt

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Host is what this machine has.
type Host struct {
	MemoryMiB int    `json:"memory_mib"` // physical memory
	CPUs      int    `json:"cpus"`       // that this process may use
	CPUModel  string `json:"cpu_model"`
	Kernel    string `json:"kernel"` // release
}

// Inspect looks at this machine.
func Inspect() (Host, error) {
	mem, err := memoryMiB()
	if err != nil {
		return Host{}, err
	}
	model, err := CPUModel()
	if err != nil {
		return Host{}, err
	}
	release, err := kernelRelease()
	if err != nil {
		return Host{}, err
	}
	return Host{MemoryMiB: mem, CPUs: runtime.NumCPU(), CPUModel: model, Kernel: release}, nil
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
