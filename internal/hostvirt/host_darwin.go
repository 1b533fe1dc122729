package hostvirt

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func memoryMiB() (int, error) {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, fmt.Errorf("ask for the host's memory: %w", err)
	}
	return int(n >> 20), nil
}

// CPUModel is the CPU's name for itself.
func CPUModel() (string, error) {
	s, err := unix.Sysctl("machdep.cpu.brand_string")
	if err != nil {
		return "", fmt.Errorf("ask for the CPU's model: %w", err)
	}
	return s, nil
}

func bootID() (string, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return id, nil
}

func canOpen() bool { return true }
