package hostvirt

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func memoryMiB() (int, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask for the host's memory: %w", err)
	}
	return int(uint64(info.Totalram) * uint64(info.Unit) >> 20), nil
}

// CPUModel is the CPU's name for itself, or, on arm64, which has none, the numbers of implementer, part and revision.
func CPUModel() (string, error) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("ask for the CPU's model: %w", err)
	}
	return parseCPUModel(string(b)), nil
}

func parseCPUModel(cpuinfo string) string {
	var id []string
	for line := range strings.Lines(cpuinfo) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			if len(id) > 0 {
				break // the end of the first CPU
			}
			continue
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch name {
		case "model name":
			return value
		case "CPU implementer", "CPU variant", "CPU part", "CPU revision":
			id = append(id, strings.ToLower(strings.TrimPrefix(name, "CPU "))+" "+value)
		}
	}
	if len(id) == 0 {
		return "unknown " + runtime.GOARCH
	}
	return strings.Join(id, ", ")
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// canOpen reports whether the device can still be opened, which a cached verdict cannot know.
func canOpen() bool {
	fd, err := unix.Open(kvmDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
