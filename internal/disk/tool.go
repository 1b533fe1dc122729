package disk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// toolDirs are where mke2fs may be although PATH does not say so: an ordinary user's PATH has no sbin on Debian, and
// Homebrew does not link e2fsprogs into its bin.
var toolDirs = []string{
	"/usr/sbin", "/sbin", "/usr/local/sbin",
	"/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin",
}

// findMke2fs returns the path of mke2fs. The error is a *sandbox.Error of kind Unavailable that says how to get it.
func findMke2fs() (string, error) {
	if path, err := exec.LookPath("mke2fs"); err == nil && filepath.IsAbs(path) {
		return path, nil
	}
	for _, dir := range toolDirs {
		path := filepath.Join(dir, "mke2fs")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	install := "apt-get install e2fsprogs"
	if runtime.GOOS == "darwin" {
		install = "brew install e2fsprogs"
	}
	return "", sandbox.Errorf(sandbox.Unavailable, "install it: "+install, "mke2fs, which makes a sandbox's disk, is neither in PATH nor in %s", fmt.Sprint(toolDirs))
}
