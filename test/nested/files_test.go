package nested

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/agentkernel/agentkernel/internal/paths"
)

//go:embed testdata/initramfs.sh
var initramfsScript []byte

//go:embed testdata/init.sh
var initScript []byte

// metapackage depends on the newest kernel that the distribution has for virtual machines: small, with kvm-amd.
const metapackage = "linux-image-cloud-amd64"

// modules in the order that they are loaded in: the disk's, then KVM's.
var modules = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "irqbypass", "kvm", "kvm-amd"}

// outerKernel is an unpacked kernel package.
type outerKernel struct {
	image   string
	modules string // directory
}

// distributionKernel downloads the kernel as a package, and unpacks it in cache without installing it.
func distributionKernel(ctx context.Context, t *testing.T, cache string) outerKernel {
	t.Helper()
	out := output(ctx, t, "", "apt-cache", "depends", "--important", metapackage)
	m := regexp.MustCompile(`Depends: (linux-image-\S+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("the package lists name no kernel for %s (apt-get update):\n%s", metapackage, out)
	}
	dir := filepath.Join(cache, m[1])
	if _, err := os.Stat(dir); err != nil {
		tmp := dir + ".new"
		if err := os.RemoveAll(tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(tmp, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Logf("downloading %s", m[1])
		output(ctx, t, tmp, "apt-get", "download", "-q", m[1])
		output(ctx, t, "", "dpkg-deb", "-x", one(t, filepath.Join(tmp, "*.deb")), tmp)
		if err := os.Rename(tmp, dir); err != nil {
			t.Fatal(err)
		}
	}
	return outerKernel{image: one(t, filepath.Join(dir, "boot/vmlinuz-*")), modules: one(t, filepath.Join(dir, "lib/modules/*"))}
}

// writeInitramfs writes busybox, the modules and the script that mounts the disk.
func writeInitramfs(t *testing.T, path string, kernel outerKernel) {
	t.Helper()
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	add := func(name string, mode cpio.FileMode, data []byte) {
		err := w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Links: 1, Size: int64(len(data))})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "modules", "proc", "root", "sys"} {
		add(dir, cpio.TypeDir|0o755, nil)
	}
	add("init", cpio.TypeReg|0o755, initramfsScript)
	add("bin/busybox", cpio.TypeReg|0o755, read(t, "/bin/busybox"))
	for i, name := range modules {
		found := ""
		err := filepath.WalkDir(kernel.modules, func(p string, _ os.DirEntry, err error) error {
			if filepath.Base(p) == name+".ko" {
				found = p
			}
			return err
		})
		if err != nil || found == "" {
			t.Fatalf("%s has no module %s: %v", kernel.modules, name, err)
		}
		add(fmt.Sprintf("modules/%02d-%s.ko", i, name), cpio.TypeReg|0o644, read(t, found))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeDisk makes the outer guest's root file system: busybox, the tools that agentkernel and its tests call, and what is
// tested.
func writeDisk(ctx context.Context, t *testing.T, path string, dirs paths.Dirs, programs map[string]string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "suite/bin", "home/agentkernel/data"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "init"), initScript, 0o755)
	write(t, filepath.Join(root, "timeout"), []byte(suiteTimeout.String()), 0o644)
	write(t, filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"), 0o644)
	write(t, filepath.Join(root, "etc/group"), []byte("root:x:0:\nkvm:x:100:user\nuser:x:1000:\n"), 0o644)
	write(t, filepath.Join(root, "usr/bin/busybox"), read(t, "/bin/busybox"), 0o755)
	write(t, filepath.Join(root, "usr/bin/firecracker"), read(t, *firecracker), 0o755)
	if *jailer != "" {
		write(t, filepath.Join(root, "usr/bin/jailer"), read(t, *jailer), 0o755)
	}
	write(t, filepath.Join(root, "suite/bin/agentkernel"), read(t, "../../bin/agentkernel"), 0o755)
	for _, tool := range []string{"mke2fs", "cp"} {
		copyProgram(ctx, t, root, tool)
	}
	for _, suite := range suites {
		dir := filepath.Join(root, "suite/test", suite.name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, suite.name+".test"), read(t, programs[suite.name]), 0o755)
		write(t, filepath.Join(dir, "run"), []byte(selected(suite.run)), 0o644)
		if suite.user != "" {
			write(t, filepath.Join(dir, "user"), []byte(selected(suite.user)), 0o644)
		}
		if data := filepath.Join("..", suite.name, "testdata"); exists(data) {
			output(ctx, t, "", "cp", "-r", data, dir)
		}
	}
	for _, part := range []string{"kernels", "images"} {
		output(ctx, t, "", "cp", "-rL", filepath.Join(dirs.Data, part), filepath.Join(root, "home/agentkernel/data"))
	}
	file, err := os.Create(path)
	if err == nil {
		err = file.Truncate(8 << 30)
		file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	output(ctx, t, "", "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", root, path)
}

// copyProgram copies a program of the host, under every name that a path in it may be asked by, with its libraries.
func copyProgram(ctx context.Context, t *testing.T, root, name string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/sbin/" + name
	}
	dir := "usr/bin"
	if strings.HasSuffix(filepath.Dir(path), "sbin") {
		dir = "usr/sbin"
	}
	write(t, filepath.Join(root, dir, name), read(t, path), 0o755)
	for _, library := range regexp.MustCompile(`/\S+`).FindAllString(output(ctx, t, "", "ldd", path), -1) {
		library = strings.TrimSuffix(library, ":")
		to := filepath.Join(root, library)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, to, read(t, library), 0o755)
	}
}

// output runs a program in dir and returns what it printed.
func output(ctx context.Context, t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// one returns the only file that matches.
func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d files match %s: %v", len(found), pattern, err)
	}
	return found[0]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, perm); err != nil {
		t.Fatal(err)
	}
}
