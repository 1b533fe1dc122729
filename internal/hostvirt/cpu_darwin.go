package hostvirt

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// CPU tells this host's CPU from those that a guest who has seen this one could not go on with: its model and the version of the
// kernel, whose hypervisor framework decides what a guest sees of it.
func CPU() (string, error) {
	model, err := unix.Sysctl("machdep.cpu.brand_string")
	if err != nil {
		return "", fmt.Errorf("look at the CPU: %w", err)
	}
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return "", fmt.Errorf("look at the CPU: %w", err)
	}
	return model + ", Darwin " + release, nil
}
