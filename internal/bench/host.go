package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Host is what a run was measured on.
type Host struct {
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	System    string `json:"system"`
	Kernel    string `json:"kernel"`
	Arch      string `json:"arch"`
	// VMMs are what can run microVMs, each with its version and accelerator.
	VMMs []string `json:"vmms"`
}

// String is a sentence's worth of it.
func (h Host) String() string {
	s := fmt.Sprintf("%d × %s, %s", h.CPUs, h.CPU, h.Arch)
	if h.MemoryMiB > 0 {
		s += fmt.Sprintf(", %.0f GiB", float64(h.MemoryMiB)/1024)
	}
	return s + fmt.Sprintf("; %s, Linux %s; %s", h.System, h.Kernel, strings.Join(h.VMMs, ", "))
}

// Describe says what the benchmarks run on; what cannot be found out is left empty.
func (e *Env) Describe(ctx context.Context) (Host, error) {
	h := thisHost(ctx)
	d, err := e.Client.Host(ctx)
	if err != nil {
		return h, err
	}
	h.CPUs, h.MemoryMiB = d.Cpus, d.MemoryMib
	for _, engine := range d.Engines {
		if engine.Usable {
			h.VMMs = append(h.VMMs, fmt.Sprintf("%s %s (%s)", engine.Name, deref(engine.Version), deref(engine.Accelerator)))
		}
	}
	return h, nil
}

func thisHost(ctx context.Context) Host {
	h := Host{CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, CPU: "unknown processor", System: runtime.GOOS}
	if runtime.GOOS == "darwin" {
		h.CPU = firstLine(ctx, "sysctl", "-n", "machdep.cpu.brand_string")
		h.System = "macOS " + firstLine(ctx, "sw_vers", "-productVersion")
		h.Kernel = firstLine(ctx, "uname", "-r")
		return h
	}
	if s := field("/proc/cpuinfo", "model name", ":"); s != "" {
		h.CPU = s
	}
	if s := field("/etc/os-release", "PRETTY_NAME", "="); s != "" {
		h.System = strings.Trim(s, `"`)
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		h.Kernel = strings.TrimSpace(string(b))
	}
	return h
}

// field is the value of the first line of a file that begins with a key.
func field(file, key, separator string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, separator); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstLine(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
