package erofs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What the kernel makes of an image, which only root may ask.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	for _, level := range []int{0, 1, 9} {
		root := sample()
		image, dir := write(t, root, level), t.TempDir()
		if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
			t.Skipf("this host cannot mount erofs: %v: %s", err, out)
		}
		got := map[string]string{}
		err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(name, &st); err != nil {
				return err
			}
			data := ""
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				data = string(b)
			case unix.S_IFLNK:
				if data, err = os.Readlink(name); err != nil {
					return err
				}
			}
			xattrs, err := attributes(name)
			if err != nil {
				return err
			}
			p := "/" + strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
			got[p] = line(uint64(st.Mode), uint64(st.Uid), uint64(st.Gid), st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, uint64(unix.Major(st.Rdev)), uint64(unix.Minor(st.Rdev)), xattrs, data)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(wanted(t, root), got); diff != "" {
			t.Errorf("level %d: %s", level, diff)
		}
	}
}

func attributes(name string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	out := map[string]string{}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return nil, err
		}
		out[attr] = string(value[:n])
	}
	return out, nil
}
