package kernel

import (
	"fmt"
	"runtime"
)

// Arch is a guest's processor architecture, named as uname -m names it.
type Arch string

// The architectures that have a fragment.
const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

// ParseArch accepts the kernel's, Go's and Debian's names of an architecture.
func ParseArch(s string) (Arch, error) {
	switch s {
	case "x86_64", "amd64":
		return X86_64, nil
	case "aarch64", "arm64":
		return AArch64, nil
	}
	return "", fmt.Errorf("unknown architecture %q: choose x86_64 or aarch64", s)
}

// HostArch is the architecture of the machine this runs on.
func HostArch() (Arch, error) { return ParseArch(runtime.GOARCH) }

// makeArch is the value of ARCH for the kernel's make.
func (a Arch) makeArch() string {
	if a == AArch64 {
		return "arm64"
	}
	return "x86_64"
}

// crossPrefix is the prefix of the compiler's tools: empty when host builds
// for itself, else the GNU triplet that Debian's cross compilers carry.
func (a Arch) crossPrefix(host Arch) string {
	if a == host {
		return ""
	}
	return string(a) + "-linux-gnu-"
}

// targets are what make is asked for.
func (a Arch) targets() []string {
	if a == AArch64 {
		return []string{"Image"}
	}
	return []string{"vmlinux", "bzImage"}
}

// expectedObjects is how many objects a build compiles, counted once for each
// architecture; a first build shows its progress against it.
func (a Arch) expectedObjects() int64 {
	if a == AArch64 {
		return 1150
	}
	return 1130
}
