package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// fsUUID is the UUID and the directory hash seed of every disk: with them fixed, the same size gives the same bytes. A guest
// finds its disks by serial or name, and nothing is ever looked up by it.
const fsUUID = "616b7570-7065-4000-8000-000000000001"

// features of the file system: what a kernel of 6.1 uses to advantage and nothing that helps to resize it (resize_inode) or
// to repair it from a backup (sparse_super2 with no backup): most of these disks are thrown away, and backups cost host memory.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2," +
	"large_file,huge_file,dir_nlink,extra_isize,"

// What is checked of metadata: all of it, or the group descriptors alone. A checksum of a block costs an emulated guest 50
// microseconds, as much as a system call or two, and making a file takes several. The journal is as safe without them.
const (
	checksums   = "metadata_csum"
	noChecksums = "uninit_bg"
)

// layout is what an empty disk is like.
type layout struct {
	sizeMiB   int // of the file system
	behindMiB int // bytes of the file behind it, in MiB
	checksums string
}

// mke2fsArgs is the recipe of an empty disk but for its file: mke2fs(8). Inode tables are marked as zeroed, which they are in
// a file full of holes; else the guest's kernel would zero them after the first mount and fill the file (160 MiB of one with
// 10 GiB). Metadata is packed together at the start for the same reason: fewer host blocks are touched.
func (l layout) mke2fsArgs() []string {
	journal := "16" // MiB
	if l.sizeMiB < 512 {
		journal = "4"
	}
	return []string{
		"-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-U", fsUUID,
		"-O", features + l.checksums, "-J", "size=" + journal,
		"-E", "assume_storage_prezeroed=1,lazy_journal_init=1,nodiscard,root_owner=0:0,num_backup_sb=0,packed_meta_blocks=1,hash_seed=" + fsUUID,
	}
}

// Create makes an empty ext4 disk at path, mode 0600, in a sparse file of sizeMiB MiB. It replaces a file that is there.
// cacheDir keeps one template a size; it is made when it is missing, and may be deleted at any time.
func Create(ctx context.Context, cacheDir, path string, sizeMiB int) error {
	return create(ctx, cacheDir, path, layout{sizeMiB, 0, checksums})
}

// CreateUpper makes an empty disk as Create does, for one sandbox: faster to make files in, and with behindMiB MiB in the file
// behind the file system's sizeMiB.
func CreateUpper(ctx context.Context, cacheDir, path string, sizeMiB, behindMiB int) error {
	return create(ctx, cacheDir, path, layout{sizeMiB, behindMiB, noChecksums})
}

func create(ctx context.Context, cacheDir, path string, l layout) error {
	if l.sizeMiB < 16 {
		return sandbox.Errorf(sandbox.Invalid, "ask for at least 64 MiB", "a disk of %d MiB cannot be had", l.sizeMiB)
	}
	template, err := l.template(ctx, cacheDir)
	if err != nil {
		return err
	}
	return Copy(ctx, path, template, 0o600)
}

// template returns the path of the cached empty disk of a layout, making it when it is missing or damaged.
func (l layout) template(ctx context.Context, cacheDir string) (string, error) {
	sizeMiB := l.sizeMiB
	args := l.mke2fsArgs()
	size := int64(sizeMiB+l.behindMiB) << 20
	recipe := sha256.Sum256(fmt.Appendf(nil, "%q %d %d", args, sizeMiB, size))
	path := filepath.Join(cacheDir, "disk-"+hex.EncodeToString(recipe[:16])+".ext4")
	if l.whole(path) {
		return path, nil
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return "", fmt.Errorf("make the cache of empty disks: %w", err)
	}
	tool, err := findMke2fs()
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(cacheDir, ".disk-*")
	if err != nil {
		return "", NoSpace(cacheDir, fmt.Errorf("make an empty disk: %w", err))
	}
	defer os.Remove(tmp.Name())
	err = errors.Join(tmp.Truncate(size), tmp.Close())
	if err != nil {
		return "", NoSpace(cacheDir, fmt.Errorf("make an empty disk of %d MiB: %w", sizeMiB, err))
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, append(args, tmp.Name(), strconv.Itoa(sizeMiB)+"M")...)
	cmd.Stderr = &stderr
	// The host's own mke2fs.conf and the time of day must not change a byte of the result.
	cmd.Env = []string{"LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "E2FSPROGS_FAKE_TIME=1", "SOURCE_DATE_EPOCH=1"}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", mke2fsError(tool, cacheDir, sizeMiB, stderr.String(), err)
	}
	// A rename in place of a file that somebody copies right now does no harm: they have it open.
	if err := syncFile(tmp.Name()); err != nil {
		return "", NoSpace(cacheDir, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return "", fmt.Errorf("keep an empty disk: %w", err)
	}
	return path, nil
}

// whole reports whether path is a template of this layout: a file system of that many bytes and not a leftover of a crash of
// the host, which may have lost contents but kept the name.
func (l layout) whole(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(l.sizeMiB+l.behindMiB)<<20 {
		return false
	}
	var sb [1024]byte // Documentation/filesystems/ext4/super.rst
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return false
	}
	blocks := int64(binary.LittleEndian.Uint32(sb[0x150:]))<<32 | int64(binary.LittleEndian.Uint32(sb[0x4:]))
	return binary.LittleEndian.Uint16(sb[0x38:]) == 0xef53 && blocks == int64(l.sizeMiB)<<20/4096
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write an empty disk to the host's disk: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write an empty disk to the host's disk: %w", err)
	}
	return nil
}

func mke2fsError(tool, cacheDir string, sizeMiB int, stderr string, err error) error {
	text := strings.Join(strings.Fields(stderr), " ")
	if len(text) > 500 {
		text = text[len(text)-500:]
	}
	switch {
	case strings.Contains(text, "No space left on device"):
		return full(cacheDir, err)
	case strings.Contains(text, "Bad option"):
		return sandbox.Errorf(sandbox.Unavailable, "install e2fsprogs 1.47 or newer", "%s is too old: %s", tool, text)
	}
	return fmt.Errorf("make an empty disk of %d MiB with %s: %w: %s", sizeMiB, tool, err, text)
}
