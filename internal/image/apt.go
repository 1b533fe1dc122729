package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// debianKeyring has the keys of Debian's archive: the package debian-archive-keyring.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is apt-get with state and caches of its own, so that nothing of the host's package manager changes. It checks the
// signatures of what it gets.
type apt struct {
	dir     string // absolute; below it is all that apt keeps
	options []string
}

// newApt prepares dir for packages of an architecture: of this host's apt sources, or of these suites of Debian when there are some.
func newApt(dir string, arch sandbox.Arch, suites ...string) (*apt, error) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make room for apt: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, fmt.Errorf("make room for apt: %w", err)
	}
	deb := arches[arch].debian
	a := &apt{dir: dir, options: []string{ // apt.conf(5)
		"-qq",
		"-o", "Dir::State=" + dir, "-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::State::status=" + filepath.Join(dir, "status"), "-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Architecture=" + deb, "-o", "APT::Architectures=" + deb,
		"-o", "APT::Sandbox::User=", // else root's apt becomes a user who cannot write here
		"-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}}
	if len(suites) == 0 {
		return a, nil
	}
	var text strings.Builder
	for _, suite := range suites {
		for _, kind := range []string{"deb", "deb-src"} {
			fmt.Fprintf(&text, "%s [signed-by=%s] %s %s main\n", kind, debianKeyring, mirror, suite)
		}
	}
	list := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(list, []byte(text.String()), 0o644); err != nil {
		return nil, fmt.Errorf("make room for apt: %w", err)
	}
	a.options = append(a.options, "-o", "Dir::Etc::sourcelist="+list, "-o", "Dir::Etc::sourceparts=/dev/null")
	return a, nil
}

// run runs a command of apt-get in a directory.
func (a *apt) run(ctx context.Context, dir string, args ...string) error {
	return run(ctx, dir, "apt-get", append(append([]string{}, a.options...), args...)...)
}

// unpack downloads a package (NAME, NAME:ARCH or NAME/SUITE) and unpacks it into a directory, which is made. Nothing of it is run.
func (a *apt) unpack(ctx context.Context, name, to string) error {
	dir, err := os.MkdirTemp(a.dir, "deb-*")
	if err != nil {
		return fmt.Errorf("make room for apt: %w", err)
	}
	if err := a.run(ctx, dir, "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
	}
	return run(ctx, dir, "dpkg-deb", "--extract", debs[0], to)
}
