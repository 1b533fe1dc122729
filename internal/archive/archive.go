// Package archive turns files into a tar stream and a tar stream into files, with all that a Linux file system keeps of
// them: modes, owners, times to the nanosecond, symbolic and hard links, holes, extended attributes, devices, fifos. Both
// ends of a copy use it, the guest agent and the command line.
//
// What is written is a pax archive (POSIX.1-2024, pax "Extended Interchange Format"); holes are in GNU tar's format 1.0 of
// sparse members, extended attributes in the records SCHILY.xattr.* that GNU tar and libarchive share. Any tar reads it.
// The standard library writes no sparse members, hence the writer; its reader reads them, and all older formats.
//
// Unpack trusts nothing in the stream: no member leaves the target directory, by a name, a symbolic link, a hard link or a
// race between two members; no device or set-id bit is made unless the caller wants them; memory does not grow with the
// archive. Each directory is opened from its parent's descriptor without following links, so there is no name left to be
// resolved a second time.
package archive

import (
	"fmt"
	"strings"
)

// bufferSize is what one write of an archive has, in bytes, and what a file may have to be read or written in one piece.
const bufferSize = 256 << 10

// maxName bounds a member's name, in bytes: PATH_MAX of Linux without its NUL.
const maxName = 4095

// xattrPrefix is what the key of a pax record with an extended attribute begins with.
const xattrPrefix = "SCHILY.xattr."

// Xattr is an extended attribute: xattr(7).
type Xattr struct {
	Name, Value string
}

// Warnings tells what a copy lacks.
type Warnings struct {
	Count int      // members that were left out or are not whole
	Text  []string // the first of them in words, and what else is missing
}

// maxWarnings bounds the warnings that are kept in words.
const maxWarnings = 20

// add counts a member that was left out or is not whole.
func (w *Warnings) add(format string, args ...any) {
	w.Count++
	w.note(format, args...)
}

// note tells of something else.
func (w *Warnings) note(format string, args ...any) {
	if len(w.Text) < maxWarnings {
		w.Text = append(w.Text, fmt.Sprintf(format, args...))
	}
}

// NameError is returned for a member whose name is none below the target.
type NameError struct {
	Name string
	Why  string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("the archive's member %.200q %s", e.Name, e.Why)
}

// split returns the components of a member's name below the target: none for the target itself. A leading slash means
// nothing, as for tar; a component ".." is refused.
func split(name string) ([]string, error) { return appendSplit(nil, name) }

// appendSplit appends what split returns.
func appendSplit(parts []string, name string) ([]string, error) {
	if len(name) > maxName {
		return nil, &NameError{name, fmt.Sprintf("has a name of %d bytes, more than %d", len(name), maxName)}
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, &NameError{name, "has a NUL in its name"}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, &NameError{name, "has a name that leaves the target"}
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}
