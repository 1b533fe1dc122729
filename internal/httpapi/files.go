package httpapi

import (
	"net/http"
	"strconv"
	"unicode/utf8"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// StatFile describes a file.
func (h *handler) StatFile(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.StatFileParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		info, err := f.Stat(r.Context(), params.Path, deref(params.Follow))
		if err == nil {
			h.reply(w, r, http.StatusOK, fileView(info))
		}
		return err
	})
}

// MakeDirectory makes a directory.
func (h *handler) MakeDirectory(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.MakeDirectoryParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		mode, err := octal(deref(params.Mode))
		if err != nil {
			return err
		}
		info, err := f.Mkdir(r.Context(), params.Path, mode, deref(params.Parents))
		if err == nil {
			h.reply(w, r, http.StatusOK, fileView(info))
		}
		return err
	})
}

// RemoveFile removes a file.
func (h *handler) RemoveFile(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.RemoveFileParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		err := f.Remove(r.Context(), params.Path, deref(params.Recursive), deref(params.Force))
		return noContent(w, err)
	})
}

// RenameFile renames a file.
func (h *handler) RenameFile(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.RenameFileParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		return noContent(w, f.Rename(r.Context(), params.Path, params.To, deref(params.Exclusive)))
	})
}

// ChangeMode changes a file's mode.
func (h *handler) ChangeMode(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.ChangeModeParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		mode, err := octal(params.Mode)
		if err != nil {
			return err
		}
		return noContent(w, f.Chmod(r.Context(), params.Path, mode))
	})
}

// withFiles finds the files of a sandbox; an error of do is answered with, so do has not answered then.
func (h *handler) withFiles(w http.ResponseWriter, r *http.Request, name string, do func(*guestrpc.Files) error) {
	f, err := h.Manager.Files(r.Context(), name)
	if err == nil {
		err = do(f)
	}
	switch {
	case err == nil:
	case r.Context().Err() != nil: // nobody hears the answer
		h.Log.Debug("a client went away", "sandbox", name, "path", r.URL.Path, "err", err)
	default:
		h.fail(w, r, err)
	}
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// octal reads a mode; "" is 0.
func octal(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, sandbox.Errorf(sandbox.Invalid, "use octal digits such as 644", "%q is not a mode", s)
	}
	return uint32(n), nil
}

// fileTypes are the names of the kinds of files in st_mode: inode(7).
var fileTypes = map[uint32]apiv1.FileInfoType{
	0o100000: apiv1.File, 0o040000: apiv1.Directory, 0o120000: apiv1.Symlink, 0o010000: apiv1.Fifo, 0o140000: apiv1.Socket,
	0o020000: apiv1.CharDevice, 0o060000: apiv1.BlockDevice,
}

func fileView(f guestrpc.FileInfo) apiv1.FileInfo {
	kind, ok := fileTypes[f.Mode&0o170000]
	if !ok {
		kind = apiv1.Unknown
	}
	v := apiv1.FileInfo{
		Type: kind, Mode: "0" + strconv.FormatUint(uint64(f.Mode&0o7777), 8), Size: f.Size, Modified: f.Modified.UTC(),
		Uid: int64(f.UID), Gid: int64(f.GID), Inode: strconv.FormatUint(f.Inode, 10), Links: int64(f.Links), Blocks: f.Blocks,
	}
	v.Name, v.NameBase64 = text(f.Name)
	if f.Target != "" {
		var target string
		target, v.TargetBase64 = text(f.Target)
		v.Target = &target
	}
	return v
}

// text returns bytes as JSON can have them, and themselves when that changes them.
func text(s string) (string, *[]byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	raw := []byte(s)
	return s, &raw // encoding/json writes U+FFFD for what is not UTF-8
}
