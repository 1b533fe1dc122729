package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// BenchmarkPull500MB makes an image of 500 MB out of this host's /usr, in three layers, and shows how long each step of a pull
// takes and what each leaves on the disk, beside what docker takes for the same image from a file. Run it with -benchtime 1x.
func BenchmarkPull500MB(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("the image is made of a Linux host's /usr")
	}
	img := hostImage(b, 500_000_000, 3)
	dir := b.TempDir()
	file := filepath.Join(dir, "image.tar")
	tag, err := name.NewTag("test.invalid/bench:1")
	if err == nil {
		err = tarball.WriteToFile(file, tag, img)
	}
	if err != nil {
		b.Fatal(err)
	}
	reg := imagetest.NewRegistry(b)
	ref, err := oci.ParseName(reg.Push("bench:1", img))
	if err != nil {
		b.Fatal(err)
	}
	step := func(name string, f func() error) {
		b.Helper()
		began := time.Now()
		if err := f(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-"+name)
	}
	for b.Loop() {
		ctx := context.Background()
		s := Open(filepath.Join(b.TempDir(), "images"))
		spool, err := s.spoolDir()
		if err != nil {
			b.Fatal(err)
		}
		r := &oci.Registries{Cache: oci.Cache{Dir: b.TempDir()}}
		var fetched *oci.Image
		step("1-download", func() (err error) {
			if fetched, err = r.Fetch(ctx, ref, sandbox.X8664); err != nil {
				return err
			}
			return fetched.Download(ctx, nil)
		})
		var flat *oci.Flat
		step("2-unpack-and-merge", func() (err error) {
			flat, err = fetched.Flatten(ctx, spool, layer.Limits{}, nil)
			return err
		})
		var unpacked int64
		for _, n := range flat.Sizes {
			unpacked += n
		}
		b.ReportMetric(float64(unpacked)/1e6, "MB-unpacked")
		for _, form := range []struct {
			format, name string
			level        int
		}{{Erofs, "3-erofs-plain", 0}, {Erofs, "3-erofs-lz4", 1}, {Erofs, "3-erofs-lz4hc", DefaultLevel}, {Ext4, "3-ext4", 0}} {
			step(form.name, func() error {
				m, err := s.PutTree(ctx, flat.Root, PutOptions{Name: "x", Arch: sandbox.X8664, Format: form.format, Level: form.level, BuildTime: buildTime})
				b.ReportMetric(float64(m.Size)/1e6, "MB-"+form.name)
				return err
			})
		}
		_ = flat.Close()
		if exec.Command("docker", "info").Run() != nil {
			b.Log("docker does not answer, so there is nothing to compare with")
			continue
		}
		step("docker-load", func() error { return exec.Command("docker", "load", "-q", "-i", file).Run() })
		step("docker-create", func() error { return exec.Command("docker", "create", "--name", "ak-bench", tag.String(), "x").Run() })
		step("docker-export", func() error {
			out, err := os.Create(filepath.Join(dir, "export.tar"))
			if err != nil {
				return err
			}
			defer out.Close()
			cmd := exec.Command("docker", "export", "ak-bench")
			cmd.Stdout = out
			if err := cmd.Run(); err != nil {
				return err
			}
			info, err := out.Stat()
			b.ReportMetric(float64(info.Size())/1e6, "MB-docker-export")
			return err
		})
		_ = exec.Command("docker", "rm", "ak-bench").Run()
		_ = exec.Command("docker", "rmi", tag.String()).Run()
	}
}

// hostImage makes an image with total bytes of the files of /usr.
func hostImage(b *testing.B, total int64, layers int) v1.Image {
	b.Helper()
	var done int64
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		b.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	n := 1
	flush := func() {
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		data := bytes.Clone(buf.Bytes())
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithCompressedCaching)
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			b.Fatal(err)
		}
		buf.Reset()
		w = tar.NewWriter(&buf)
	}
	err = filepath.WalkDir("/usr", func(p string, d fs.DirEntry, err error) error {
		if err != nil || done >= total {
			return filepath.SkipAll
		}
		h, data := hostEntry(p, d)
		if h == nil {
			return nil
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		done += h.Size
		if _, err := w.Write(data); err != nil {
			return err
		}
		if done >= total*int64(n)/int64(layers) && n < layers {
			n++
			flush()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	flush()
	b.Logf("the image has %d MB of /usr", done/1_000_000)
	return img
}

// hostEntry returns a file of the host as an entry of an archive, or nil when it cannot be one.
func hostEntry(p string, d fs.DirEntry) (*tar.Header, []byte) {
	info, err := d.Info()
	link := err == nil && info.Mode()&fs.ModeSymlink != 0
	if err != nil || !info.Mode().IsRegular() && !d.IsDir() && !link || info.Size() > 50<<20 {
		return nil, nil
	}
	target, data := "", []byte(nil)
	switch {
	case link:
		target, err = os.Readlink(p)
	case info.Mode().IsRegular():
		data, err = os.ReadFile(p)
	}
	if err != nil {
		return nil, nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil || h.Size != int64(len(data)) {
		return nil, nil
	}
	h.Name, h.Format = p[1:], tar.FormatPAX
	return h, data
}
