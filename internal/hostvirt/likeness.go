package hostvirt

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

// Likeness is what two hosts must have alike for one to go on with what a guest of KVM has begun on the other.
type Likeness struct {
	CPU      string // e.g. GenuineIntel, family 6, model 106; on arm64 implementer, variant and part
	Features string // a digest of the CPU's features, as far as microcode and kernel let them be used
	Kernel   string // release without the patch level, e.g. 6.1: the state that KVM hands out changes between series
}

// HostLikeness is that of this host: /proc/cpuinfo and uname(2). It does not change while a kernel runs, and is read once.
var HostLikeness = sync.OnceValues(func() (Likeness, error) {
	if runtime.GOOS != "linux" {
		return Likeness{}, fmt.Errorf("look at the CPU: KVM is on Linux only, and this is %s", runtime.GOOS)
	}
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Likeness{}, fmt.Errorf("look at the CPU: %w", err)
	}
	release, err := kernelRelease()
	if err != nil {
		return Likeness{}, err
	}
	return likeness(string(b), release), nil
})

// likeness reads the first CPU in the text of /proc/cpuinfo.
func likeness(cpuinfo, release string) (l Likeness) {
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
		case "vendor_id":
			id = append(id, value)
		case "cpu family", "model", "CPU implementer", "CPU variant", "CPU part":
			id = append(id, strings.TrimPrefix(strings.TrimPrefix(name, "cpu "), "CPU ")+" "+value)
		case "flags", "Features":
			l.Features = fmt.Sprintf("%x", sha256.Sum256([]byte(value)))[:16]
		}
	}
	l.CPU = strings.Join(id, ", ")
	l.Kernel = release
	if parts := strings.SplitN(release, ".", 3); len(parts) == 3 {
		l.Kernel = parts[0] + "." + parts[1]
	}
	return l
}

func (l Likeness) String() string {
	return fmt.Sprintf("%s; features %s; Linux %s", l.CPU, l.Features, l.Kernel)
}

// Difference says in words what makes this host another than the one whose likeness was written as saved, by String. It is empty
// when nothing does.
func (l Likeness) Difference(saved string) string {
	if saved == l.String() {
		return ""
	}
	cpu, rest, _ := strings.Cut(saved, "; features ")
	features, kernel, ok := strings.Cut(rest, "; Linux ")
	switch {
	case !ok:
		return fmt.Sprintf("it was saved on a host that is described as %.100q, and this one is %q", saved, l)
	case cpu != l.CPU:
		return fmt.Sprintf("it was saved on a CPU %s, and this host's is %s", cpu, l.CPU)
	case features != l.Features:
		return "the CPU has other features than when it was saved: another CPU of the same model, other microcode, or another setting of the host's kernel"
	}
	return fmt.Sprintf("it was saved under Linux %s, and this host runs %s", kernel, l.Kernel)
}
