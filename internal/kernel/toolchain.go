package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Missing is a program or header that a build needs and the host lacks.
type Missing struct {
	Tool    string // "flex", "gelf.h"
	Package string // Debian's package with it
}

// MissingToolsError lists everything that has to be installed first.
type MissingToolsError struct {
	Arch    Arch
	Missing []Missing
}

// Error names the tools and the command that installs them on Debian.
func (e *MissingToolsError) Error() string {
	var tools, packages []string
	for _, m := range e.Missing {
		tools = append(tools, m.Tool)
		if !slices.Contains(packages, m.Package) {
			packages = append(packages, m.Package)
		}
	}
	return fmt.Sprintf("building the %s kernel needs %s; on Debian: apt-get install %s",
		e.Arch, strings.Join(tools, ", "), strings.Join(packages, " "))
}

// toolchain is the compiler that a build uses.
type toolchain struct {
	Cross    string // prefix, "" for the host's own
	Compiler string // first line of its --version
}

type requirement struct {
	tool, pkg string
}

// requirements of a build of arch on host, in the order they are reported.
func requirements(arch, host Arch) []requirement {
	reqs := []requirement{
		{"make", "make"}, {"gcc", "gcc"}, {"ld", "binutils"}, {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"},
		{"tar", "tar"}, {"xz", "xz-utils"}, {"patch", "patch"},
	}
	if cross := arch.crossPrefix(host); cross != "" {
		triplet := strings.ReplaceAll(strings.TrimSuffix(cross, "-"), "_", "-")
		reqs = append(reqs,
			requirement{cross + "gcc", "gcc-" + triplet},
			requirement{cross + "objcopy", "binutils-" + triplet})
	} else {
		reqs = append(reqs, requirement{"objcopy", "binutils"})
	}
	return reqs
}

// headers of a build of arch: the host's C library, and libelf for objtool,
// which x86_64 needs to check its retpolines.
func headers(arch Arch) []requirement {
	reqs := []requirement{{"stdio.h", "libc6-dev"}}
	if arch == X86_64 {
		reqs = append(reqs, requirement{"gelf.h", "libelf-dev"})
	}
	return reqs
}

// CheckTools reports what the host lacks to build a kernel of arch, as a
// [*MissingToolsError]; nil if nothing.
func CheckTools(ctx context.Context, arch Arch) error {
	host, err := HostArch()
	if err != nil {
		return err
	}
	return checkTools(ctx, arch, host, exec.LookPath, hasHeader)
}

func checkTools(ctx context.Context, arch, host Arch, look func(string) (string, error), header func(context.Context, string) bool) error {
	var missing []Missing
	for _, r := range requirements(arch, host) {
		if _, err := look(r.tool); err != nil {
			missing = append(missing, Missing{r.tool, r.pkg})
		}
	}
	if _, err := look("gcc"); err == nil { // without it no header can be looked for
		for _, r := range headers(arch) {
			if !header(ctx, r.tool) {
				missing = append(missing, Missing{r.tool, r.pkg})
			}
		}
	}
	if len(missing) > 0 {
		return &MissingToolsError{Arch: arch, Missing: missing}
	}
	return nil
}

// hasHeader asks the host's preprocessor whether it finds a header.
func hasHeader(ctx context.Context, name string) bool {
	cmd := exec.CommandContext(ctx, "gcc", "-E", "-o", "/dev/null", "-x", "c", "-")
	cmd.Stdin = strings.NewReader("#include <" + name + ">\n")
	return cmd.Run() == nil
}

// findToolchain checks the host and asks the compiler for its version.
func findToolchain(ctx context.Context, arch Arch) (toolchain, error) {
	if err := CheckTools(ctx, arch); err != nil {
		return toolchain{}, err
	}
	host, err := HostArch()
	if err != nil {
		return toolchain{}, err
	}
	t := toolchain{Cross: arch.crossPrefix(host)}
	out, err := exec.CommandContext(ctx, t.Cross+"gcc", "--version").Output()
	if err != nil {
		return toolchain{}, fmt.Errorf("ask %sgcc for its version: %w", t.Cross, err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	t.Compiler = strings.TrimSpace(string(line))
	return t, nil
}
