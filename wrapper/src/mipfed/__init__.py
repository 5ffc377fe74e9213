"""`mipfed`: deploys and operates federations of the Medical Informatics Platform."""
