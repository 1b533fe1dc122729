package tree

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteTar writes a tree as a tar archive (POSIX.1-2001) that other programs make file-system images from. The order is
// Walk's; a node's further names are hard links to its first.
func WriteTar(ctx context.Context, out io.Writer, root *Node) error {
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := tar.NewWriter(buffered)
	linked := Links(root)
	first := make(map[*Node]string, len(linked))
	for p, n := range Walk(root) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := "." + p
		if n.IsDir() && p != "/" {
			name += "/"
		}
		h := header(name, n)
		if target, again := first[n]; again {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
		} else if linked[n] > 1 {
			first[n] = name
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", p, err)
		}
		if h.Size == 0 {
			continue
		}
		if _, err := io.Copy(w, io.NewSectionReader(n.Contents.Source, n.Contents.Off, n.Contents.Size)); err != nil {
			return fmt.Errorf("write %s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func header(name string, n *Node) *tar.Header {
	h := &tar.Header{
		Name: name, Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID), ModTime: time.Unix(n.Mtime.Sec, int64(n.Mtime.Nsec)),
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	for k, v := range n.Xattrs {
		h.PAXRecords[XattrRecord+k] = v
	}
	switch n.Type() {
	case TypeDir:
		h.Typeflag = tar.TypeDir
	case TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case TypeChar:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.Major), int64(n.Minor)
	case TypeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(n.Major), int64(n.Minor)
	case TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, n.Contents.Size
	}
	return h
}

// XattrRecord begins the PAX records that hold extended attributes.
const XattrRecord = "SCHILY.xattr."

// XattrSupported reports whether an extended attribute can be part of an image: the kernel keeps these in every file
// system, and the rest belongs to particular ones. Those of overlayfs itself are left out, since the guest lays an overlay
// over the image and would take them as its own.
func XattrSupported(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."):
		return false
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest != "" && len(name) <= MaxXattrName
		}
	}
	return false
}
