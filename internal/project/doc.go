// Package project copies a project's directory into a read-only ext4 image: the lower layer of /workspace, over which the
// guest lays a writable one. The directory itself is only ever read.
//
// What is packed: regular files, directories (empty ones too), symbolic links as links, and hard links as hard links, with
// permissions (setuid, setgid and sticky bits included), modification times to the nanosecond (from 1970 on), and names as they are,
// whatever bytes they have. Everything belongs to root in the guest. Owners, extended attributes and ACLs are not packed.
//
// What is left out: what git would ignore, by .gitignore files at any depth and .git/info/exclude, except for files that git
// tracks all the same; sockets, FIFOs and devices; what cannot be read; what ext4 cannot hold. A Report counts all of that.
// Ignore rules from outside of the directory (the user's global ones, those of a repository around it) do not count. A .git
// directory is packed whole, since agents need the history. A nested repository has its own rules only.
//
// The directory is not trusted. It is read through os.Root, one directory at a time: no symbolic link is followed, and one
// that is swapped in while we look can never lead out. Files may change, shrink, and go away meanwhile.
//
// The same tree gives the same image, byte for byte.
package project
