// Package image keeps the read-only root file systems that sandboxes start from.
//
// A Store is a directory:
//
//	blobs/sha256/<64 hex>          the images, mode 0444, each under the hash of its bytes
//	manifests/<arch>/<name>.json   what a name stands for; '/', ':' and '@' of a name are escaped
//	locks/<hash>.lock              held by who pulls what a name stands for
//	locks/images.lock              shared by who begins to use an image, and held by who removes some
//
// A blob is never changed, and all sandboxes that run on an image share it. A name can be given to another image at any
// time: a sandbox keeps the digest that the name stood for when it was made. Everything is written under a temporary name
// and renamed, so that any number of processes may use one store at once, and a crash leaves at most a temporary file, which
// Prune removes. The lock of a name only keeps two from doing the same work; the one of all images (Hold, Exclude) keeps an image
// from being removed between the moment that somebody finds it and the moment that this can be seen. What is in use is not kept
// here: whoever removes asks for it.
//
// Images come from recipes that this program carries (Build), from container images (Pull, Load), from trees and archives
// (PutTree, PutTar), and from files (Import): erofs, squashfs and ext4. What a
// file is, is told by its superblock, and a file that is shorter than its superblock says is refused here, rather than
// found out by a guest that does not boot.
package image
