package kernel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

const (
	manifestName   = "kernel.json"
	manifestFormat = 1
	// Large enough for any manifest of ours, small enough not to matter.
	manifestMaxBytes = 64 << 10
)

var (
	keyForm    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })
	sha256Form = keyForm
)

// File is one file of a built kernel.
type File struct {
	Name   string `json:"name"`   // within the kernel's directory
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hex
}

// Kernel describes a built kernel; kernel.json holds it.
type Kernel struct {
	Format  int    `json:"format"`
	Key     string `json:"key"` // content address, see the package comment
	Arch    Arch   `json:"arch"`
	Version string `json:"version"` // "6.1.70"
	// Origin is "kernel.org" for a verified release, else the base name of the
	// source file that was given.
	Origin       string `json:"origin"`
	SourceSHA256 string `json:"source_sha256"` // of the compressed tarball, hex
	Compiler     string `json:"compiler"`      // first line of gcc --version
	// LAPICTimerKHz says that the kernel understands lapic_timer_khz= on its
	// command line, so that a microVM needs neither PIT nor PIC (x86_64).
	LAPICTimerKHz bool      `json:"lapic_timer_khz"`
	Patches       []string  `json:"patches"`
	Objects       int64     `json:"objects"` // compiled, the measure of progress
	BuiltAt       time.Time `json:"built_at"`
	BuildSeconds  float64   `json:"build_seconds"`

	// Vmlinux is what a microVM boots: on x86_64 an ELF with a PVH entry
	// point, on aarch64 the uncompressed Image.
	Vmlinux File  `json:"vmlinux"`
	BzImage *File `json:"bzimage,omitempty"` // x86_64 only
	Config  File  `json:"config"`            // the complete .config

	// Dir is where the kernel was found; it is not part of the manifest.
	Dir string `json:"-"`
}

// Release is what `uname -r` says in a guest that runs this kernel.
func (k Kernel) Release() string { return k.Version + localVersion }

// VmlinuxPath is the path of the file to boot.
func (k Kernel) VmlinuxPath() string { return filepath.Join(k.Dir, k.Vmlinux.Name) }

// ConfigPath is the path of the kernel's complete configuration.
func (k Kernel) ConfigPath() string { return filepath.Join(k.Dir, k.Config.Name) }

// BzImagePath is the path of the compressed kernel, "" where there is none.
func (k Kernel) BzImagePath() string {
	if k.BzImage == nil {
		return ""
	}
	return filepath.Join(k.Dir, k.BzImage.Name)
}

func (k Kernel) files() []File {
	files := []File{k.Vmlinux, k.Config}
	if k.BzImage != nil {
		files = append(files, *k.BzImage)
	}
	return files
}

// readManifest reads and checks the manifest in dir, and that the files it
// names are there in their full size.
func readManifest(dir string) (Kernel, error) {
	path := filepath.Join(dir, manifestName)
	info, err := os.Stat(path)
	if err != nil {
		return Kernel{}, fmt.Errorf("read kernel manifest: %w", err)
	}
	if info.Size() > manifestMaxBytes {
		return Kernel{}, fmt.Errorf("read kernel manifest %s: %d bytes are too many", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Kernel{}, fmt.Errorf("read kernel manifest: %w", err)
	}
	k, err := parseManifest(text)
	if err != nil {
		return Kernel{}, fmt.Errorf("read kernel manifest %s: %w", path, err)
	}
	if k.Key != filepath.Base(dir) {
		return Kernel{}, fmt.Errorf("read kernel manifest %s: it belongs to kernel %s", path, k.Key)
	}
	k.Dir = dir
	for _, f := range k.files() {
		info, err := os.Stat(filepath.Join(dir, f.Name))
		if err != nil {
			return Kernel{}, fmt.Errorf("kernel %s is incomplete: %w", k.Key, err)
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return Kernel{}, fmt.Errorf("kernel %s is damaged: %s has %d bytes instead of %d",
				k.Key, filepath.Join(dir, f.Name), info.Size(), f.Size)
		}
	}
	return k, nil
}

// parseManifest decodes a manifest and refuses one whose fields could not
// have been written by this package.
func parseManifest(text []byte) (Kernel, error) {
	var k Kernel
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&k); err != nil {
		return Kernel{}, fmt.Errorf("decode: %w", err)
	}
	if k.Format != manifestFormat {
		return Kernel{}, fmt.Errorf("format %d is not known here (this version knows %d)", k.Format, manifestFormat)
	}
	if k.Arch != X86_64 && k.Arch != AArch64 {
		return Kernel{}, fmt.Errorf("unknown architecture %q", k.Arch)
	}
	if _, err := seriesOf(k.Version); err != nil {
		return Kernel{}, err
	}
	if !keyForm().MatchString(k.Key) || !sha256Form().MatchString(k.SourceSHA256) {
		return Kernel{}, fmt.Errorf("key or source digest is malformed")
	}
	for _, f := range k.files() {
		if f.Name == "" || f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) {
			return Kernel{}, fmt.Errorf("%q is not a file name", f.Name)
		}
		if f.Size <= 0 || !sha256Form().MatchString(f.SHA256) {
			return Kernel{}, fmt.Errorf("size or digest of %q is malformed", f.Name)
		}
	}
	return k, nil
}
